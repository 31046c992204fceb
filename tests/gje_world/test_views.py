"""Views are crops of their images, their colours are changed as the recipe says, and seeds repeat them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kornia.enhance import adjust_saturation_with_gray_subtraction

from gje_world.data.views import AugmentConfig, Views, colour_map, random_boxes, recolour, resample
from gje_world.options import ConfigError

PLAIN = AugmentConfig(crop=[1.0, 1.0], aspect=1.0, flip=0.0, jitter=[0.0] * 4, grey=0.0)


def images(batch: int = 6, channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, size, size), dtype=torch.uint8, generator=generator)


def test_a_recipe_that_changes_nothing_leaves_the_image():
    (views,) = Views(PLAIN, 2, 16)(images())
    assert views.shape == (2, 6, 3, 32, 32)
    torch.testing.assert_close(views[1], images().float(), rtol=0, atol=1e-3)


def test_a_box_is_cut_out_enlarged_and_mirrored():
    pixels = images().float()
    box = torch.tensor([[-0.5, 0.5, 0.5, 0.5]]).expand(6, 4)  # the lower left quarter
    flip = torch.arange(6) > 2
    found = resample(pixels, box, flip, 16)
    quarter = pixels[:, :, 16:, :16]
    torch.testing.assert_close(found[:3], quarter[:3], rtol=0, atol=1e-2)
    torch.testing.assert_close(found[3:], quarter[3:].flip(-1), rtol=0, atol=1e-2)
    large = resample(pixels, box, flip, 32)[:3, :, 2:-2, 2:-2]
    expected = F.interpolate(quarter, size=32, mode="bilinear")[:3, :, 2:-2, 2:-2]
    torch.testing.assert_close(large, expected, rtol=0, atol=1e-2)


def test_boxes_lie_in_the_image_and_have_the_areas_asked_for():
    torch.manual_seed(0)
    x, y, width, height = random_boxes(20_000, [0.2, 0.6], 4 / 3, torch.device("cpu")).unbind(1)
    assert (x.abs() + width).max() <= 1 + 1e-6 and (y.abs() + height).max() <= 1 + 1e-6
    area = width * height
    assert area.min() > 0.199 and area.max() < 0.601 and abs(area.mean() - 0.4) < 0.005
    assert (width / height).max() < 4 / 3 + 1e-4 and (height / width).max() > 1.3


def colours(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, mean=0.0):
    return colour_map(*(torch.full((6,), float(v)) for v in (brightness, contrast, saturation, hue, mean)))


def test_colours_change_as_elsewhere():
    pixels = images().float() / 4 + 80
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    same = {"rtol": 0, "atol": 0.1}  # the television standard's numbers have four digits
    torch.testing.assert_close(recolour(pixels, colours()), pixels, **same)
    torch.testing.assert_close(recolour(pixels, colours(brightness=1.2)), 1.2 * pixels, **same)
    contrasted = recolour(pixels, colours(contrast=0.5, mean=100.0))
    torch.testing.assert_close(contrasted, 0.5 * pixels + 50, **same)
    faint = recolour(pixels, colours(saturation=0.3))
    torch.testing.assert_close(
        faint, adjust_saturation_with_gray_subtraction(pixels / 255, 0.3) * 255, **same
    )
    grey = recolour(pixels, colours(saturation=0.0))
    torch.testing.assert_close(grey, luma.expand_as(pixels), **same)
    turned = recolour(recolour(pixels, colours(hue=0.3)), colours(hue=-0.3))
    torch.testing.assert_close(turned, pixels, **same)
    lumas = (recolour(pixels, colours(hue=0.2)) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    torch.testing.assert_close(lumas.unsqueeze(1), luma, **same)


def test_all_frames_of_a_stack_are_changed_alike():
    torch.manual_seed(0)
    stacked = images().repeat(1, 3, 1, 1)
    (views,) = Views(AugmentConfig(blur=[1.0, 1.0], solarize=[0.5, 0.5]), 2, 16)(stacked)
    torch.testing.assert_close(views[:, :, :3], views[:, :, 6:])


def test_small_views_come_in_a_group_of_their_own():
    whole, small = Views(AugmentConfig(local_views=4), 2, 16)(images())
    assert whole.shape == (2, 6, 3, 32, 32) and small.shape == (4, 6, 3, 16, 16)


def test_views_differ_and_a_seed_repeats_them():
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(Views(AugmentConfig(blur=[0.5, 0.5]), 2, 16)(images(size=48))[0])
    assert torch.equal(*drawn)
    assert (drawn[0][0] - drawn[0][1]).abs().mean() > 5
    assert drawn[0].min() >= 0 and drawn[0].max() <= 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": [0.0, 1.0]}, r"augment.crop=\[0.0, 1.0\] must be two shares"),
        ({"blur": [0.5]}, "augment.blur"),
        ({"flip": 2.0}, "augment.flip=2.0 must be between"),
        ({"local_size": 4}, "augment.local_size=4"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**options).check()
