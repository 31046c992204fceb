"""Shifts are crops of the edge-padded images, one crop for each that is shifted on its own."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from gje_world.data import random_shift, shift
from gje_world.data.augment import _by_indices, _by_slices


def shift_of(output, image, pad):
    """The offset `(down, right)` by which `output` is `image [F, C, H, W]` shifted; None if by none."""
    height, width = image.shape[-2:]
    padded = F.pad(image.double(), (pad, pad, pad, pad), mode="replicate")
    found = [
        (down, right)
        for down in range(-pad, pad + 1)
        for right in range(-pad, pad + 1)
        if torch.equal(
            output.double(), padded[..., pad - down : pad - down + height, pad - right : pad - right + width]
        )
    ]
    assert len(found) <= 1  # random pixels: no two crops are alike
    return found[0] if found else None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pad, height, width", [(1, 5, 5), (4, 16, 16), (3, 6, 9)])
def test_every_sequence_is_one_crop_of_its_edge_padded_frames(dtype, pad, height, width):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 2, height, width)).to(dtype)
    shifted = random_shift(images, pad)
    assert shifted.shape == images.shape
    assert shifted.dtype == dtype
    assert all(
        shift_of(after, before, pad) is not None for after, before in zip(shifted, images, strict=True)
    )


@pytest.mark.parametrize("shape, lead", [((20, 3, 2, 9, 6), 1), ((4, 5, 2, 9, 6), 2), ((5, 7, 7), 1)])
def test_looking_up_each_pixel_gives_the_same(shape, lead):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    offsets = torch.randint(-3, 4, (*shape[:lead], 2))
    assert torch.equal(_by_indices(images, offsets), _by_slices(images, offsets))


@pytest.mark.parametrize("by", [_by_indices, _by_slices])
def test_windows_that_overlap_are_shifted_each_on_its_own_and_stay_as_they_were(by):
    frames = torch.randint(0, 256, (2, 6, 3, 8, 8), dtype=torch.uint8)
    before = frames.clone()
    windows = frames.unfold(1, 3, 1).permute(1, 0, 5, 2, 3, 4)  # [4, 2, 3, 3, 8, 8]
    assert windows.data_ptr() == frames.data_ptr()
    offsets = torch.randint(-2, 3, (4, 2, 2))
    shifted = by(windows, offsets)
    assert shifted.is_contiguous()
    assert torch.equal(frames, before)
    for t, b in itertools.product(range(4), range(2)):
        assert torch.equal(shifted[t, b], by(windows[t, b].unsqueeze(0), offsets[t, b].unsqueeze(0))[0])


def test_all_shifts_up_to_the_pad_occur_equally_often():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 1, 6, 6), dtype=torch.uint8)
    count, pad = 2500, 2
    shifted = random_shift(image.expand(count, 1, 1, 6, 6).clone(), pad)
    offsets = [shift_of(after, image, pad) for after in shifted]
    for down in range(-pad, pad + 1):
        for right in range(-pad, pad + 1):
            # expected 100, standard deviation 10
            assert 55 < offsets.count((down, right)) < 145


def test_the_input_is_left_as_it_was():
    images = torch.randint(0, 256, (4, 1, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    random_shift(images, 3)
    assert torch.equal(images, before)


def test_a_batch_of_none_stays_one():
    assert random_shift(torch.zeros(0, 3, 8, 8), 3).shape == (0, 3, 8, 8)


def test_no_pad_is_the_identity():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(random_shift(images, 0), images)


def test_views_in_any_memory_layout_are_shifted_alike():
    stored = torch.randint(0, 256, (8, 8, 6, 3, 2), dtype=torch.uint8)
    view = stored.permute(2, 3, 4, 0, 1)  # [6, 3, 2, 8, 8], channels last
    assert not view.is_contiguous()
    torch.manual_seed(1)
    from_view = random_shift(view, 2)
    torch.manual_seed(1)
    assert torch.equal(from_view, random_shift(view.contiguous(), 2))


def test_the_same_random_state_gives_the_same_shifts():
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    shifts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        shifts.append(random_shift(images, 2))
    assert torch.equal(shifts[0], shifts[1])
    assert not torch.equal(shifts[0], shifts[2])


@pytest.mark.parametrize("pad", [-1, 6, 100])
def test_a_pad_that_leaves_nothing_of_the_image_is_refused(pad):
    with pytest.raises(ValueError, match=f"pad must be .*got {pad} for images of 8x6"):
        random_shift(torch.zeros(2, 3, 8, 6), pad)


@pytest.mark.parametrize("offset", [(8, 0), (0, -6)])
def test_offsets_that_leave_nothing_of_the_image_are_refused(offset):
    with pytest.raises(ValueError, match="leave nothing of images of 8x6"):
        shift(torch.zeros(2, 3, 8, 6), torch.tensor([[0, 0], offset]))
