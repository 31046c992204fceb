"""Heatmaps find what a score depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from gje_world.evaluation.heatmap import masking_heatmap, occlusion_heatmap


def _images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(0))


def _spread_of_a_corner(images: Tensor) -> Tensor:
    """Depends on the upper left 8x8 alone, and is zero when that is hidden."""
    return images[:, :, :8, :8].float().flatten(1).std(-1)


@pytest.mark.parametrize("heatmap", [occlusion_heatmap, masking_heatmap])
def test_only_what_the_score_depends_on_is_hot(heatmap) -> None:
    found = heatmap(_spread_of_a_corner, _images())
    assert found.shape == (3, 16, 16)
    assert (found[:, :8, :8].mean((1, 2)) < -10).all()  # hiding it lowers the score
    assert found[:, 12:, 12:].abs().max() < 3


def test_occlusion_by_one_window_a_patch_is_the_change_it_makes() -> None:
    images = _images()
    found = occlusion_heatmap(_spread_of_a_corner, images, window=8, stride=8)
    change = -_spread_of_a_corner(images)  # what is hidden is of one colour a channel
    colour = images.float().mean((2, 3)).to(torch.uint8).float()
    change += colour.repeat_interleave(64, 1).std(-1)
    torch.testing.assert_close(found[:, 0, 0], change)
    torch.testing.assert_close(found[:, 8:, :], torch.zeros(3, 8, 16))


def test_windows_reach_the_edge_whatever_the_stride() -> None:
    found = occlusion_heatmap(lambda x: x[:, 0, 15, 15].float(), _images(), window=6, stride=4)
    assert (found[:, 15, 15] != 0).all() and (found[:, :9, :] == 0).all()


def test_masks_add_up_effects_that_do_not_interact() -> None:
    weights = torch.randn(3, 16, 16, generator=Generator().manual_seed(1))
    images = _images()
    found = masking_heatmap(lambda x: (x.float() * weights).sum((1, 2, 3)), images, patch=8, masks=2000)
    colour = images.float().mean((2, 3), keepdim=True).to(torch.uint8).float()
    effect = ((colour - images.float()) * weights).sum(1)  # of hiding each pixel
    effect = effect.unflatten(2, (2, 8)).unflatten(1, (2, 8)).sum((2, 4))
    torch.testing.assert_close(found[:, ::8, ::8], effect, rtol=0.1, atol=0.1 * float(effect.abs().max()))


def test_batches_change_nothing() -> None:
    images = _images()
    torch.testing.assert_close(
        occlusion_heatmap(_spread_of_a_corner, images, batch_size=2),
        occlusion_heatmap(_spread_of_a_corner, images),
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="stride=9 must be at least 1 and at most window=8"):
        occlusion_heatmap(_spread_of_a_corner, _images(), stride=9)
    with pytest.raises(ValueError, match="patch=5 must divide both sides of images of 16x16"):
        masking_heatmap(_spread_of_a_corner, _images(), patch=5)
    with pytest.raises(ValueError, match="masks=3 must be even"):
        masking_heatmap(_spread_of_a_corner, _images(), masks=3)
