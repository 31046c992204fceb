"""Where in an image uncertainty comes from: how a score of the whole changes when a part is hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Score = Callable[[Tensor], Tensor]  # uint8 images [N, C, H, W] to one number each, [N]


@torch.no_grad()
def occlusion_heatmap(
    score: Score, images: Tensor, *, window: int = 8, stride: int = 4, batch_size: int = 256
) -> Tensor:
    """Change of the score when a grey window hides a part (Zeiler and Fergus, 2014, §4.2), `[N, H, W]`.

    The window slides over the image; each pixel has the mean change of the windows that held it. Positive
    where hiding raises the score.

    Arguments:
        score: such as the entropy of the belief.
        images: uint8 `[N, C, H, W]`; hidden pixels take the mean colour of their image.
        window, stride: of the window, in pixels; the last row and column of windows end at the edge.
        batch_size: images given to `score` at once.

    Raises:
        ValueError: the window is larger than the image, or the stride larger than the window, which would
            leave pixels out.
    """
    height, width = images.shape[-2:]
    if not 1 <= stride <= window <= min(height, width):
        raise ValueError(
            f"stride={stride} must be at least 1 and at most window={window}, and that at most "
            f"{min(height, width)} for images of {height}x{width}"
        )
    hidden = torch.stack(
        [
            _box(height, width, top, left, window)
            for top in _starts(height, window, stride)
            for left in _starts(width, window, stride)
        ]
    )  # [M, H, W]
    change = masked_scores(score, images, hidden, batch_size) - _in_batches(score, images, batch_size)
    weights = hidden.float()
    return torch.einsum("mn,mhw->nhw", change.cpu(), weights) / weights.sum(0)


@torch.no_grad()
def masking_heatmap(
    score: Score, images: Tensor, *, patch: int = 8, masks: int = 128, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """Score where a patch is hidden minus where it is seen, over random masks, `[N, H, W]`.

    Each mask hides every patch with probability one half (RISE; Petsiuk et al., 2018), so that what parts
    tell together counts too. Positive where hiding raises the score.

    Arguments:
        score, images, batch_size: as for `occlusion_heatmap`.
        patch: side of a patch in pixels, a divisor of the image's sides.
        masks: so many, half of them the complements of the others; an even number.

    Raises:
        ValueError: the patches do not tile the image, or `masks` is odd.
    """
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"patch={patch} must divide both sides of images of {height}x{width}")
    if masks < 2 or masks % 2:
        raise ValueError(f"masks={masks} must be even, and at least 2")
    grid = (height // patch, width // patch)
    half = torch.rand(masks // 2, *grid, generator=Generator().manual_seed(seed)) < 0.5
    coarse = torch.cat([half, ~half])  # each patch is hidden in just one half of the masks
    hidden = coarse.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    scores = masked_scores(score, images, hidden, batch_size)
    sign = 2 * hidden.float() - 1
    return torch.einsum("mn,mhw->nhw", scores.cpu(), sign) * (2 / masks)


@torch.no_grad()
def masked_scores(score: Score, images: Tensor, hidden: Tensor, batch_size: int) -> Tensor:
    """Scores `[M, N]` of `images [N, C, H, W]` under each mask of `hidden [M, H, W]`, a bool tensor."""
    colour = images.float().mean((-2, -1), keepdim=True).to(images.dtype)
    return torch.stack(
        [
            _in_batches(score, torch.where(mask.to(images.device), colour, images), batch_size)
            for mask in hidden
        ]
    )


def _in_batches(score: Score, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([score(part).float() for part in images.split(batch_size)])


def _starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of windows that cover a side."""
    return sorted({*range(0, side - window + 1, stride), side - window})


def _box(height: int, width: int, top: int, left: int, window: int) -> Tensor:
    box = torch.zeros(height, width, dtype=torch.bool)
    box[top : top + window, left : left + window] = True
    return box
