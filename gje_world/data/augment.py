"""Augmentation of image sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def random_shift(images: Tensor, pad: int = 4) -> Tensor:
    """Shift each sequence by up to `pad` pixels, edges replicated (DrQ; Kostrikov et al., 2021).

    All frames of a sequence move together, so that motion stays what it was. Done by slices, which move
    whole rows: indexing each pixel costs an order of magnitude more on a CPU.

    Arguments:
        images: `[B, ..., H, W]`, any dtype.
        pad: largest shift in pixels; 0 returns the input.

    Raises:
        ValueError: `pad` is negative, or so large that nothing of an image might be left.
    """
    height, width = images.shape[-2:]
    if not 0 <= pad < min(height, width):
        raise ValueError(
            f"pad must be at least 0 and below both sides, got {pad} for images of {height}x{width}"
        )
    if pad == 0:
        return images
    # drawn on the CPU whatever the device of the images, so that no GPU has to be waited for
    offsets = torch.randint(-pad, pad + 1, (len(images), 2)).tolist()
    shifted = torch.empty_like(images)
    for out, image, (down, right) in zip(shifted, images, offsets, strict=True):
        top, bottom = max(down, 0), height + min(down, 0)
        left, edge = max(right, 0), width + min(right, 0)
        out[..., top:bottom, left:edge] = image[..., top - down : bottom - down, left - right : edge - right]
        if left:
            out[..., top:bottom, :left] = out[..., top:bottom, left : left + 1]
        if edge < width:
            out[..., top:bottom, edge:] = out[..., top:bottom, edge - 1 : edge]
        if top:
            out[..., :top, :] = out[..., top : top + 1, :]
        if bottom < height:
            out[..., bottom:, :] = out[..., bottom - 1 : bottom, :]
    return shifted
