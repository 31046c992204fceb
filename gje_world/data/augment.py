"""Augmentation of image sequences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor


def random_shift(images: Tensor, pad: int = 4, generator: Generator | None = None) -> Tensor:
    """Shift each sequence by up to `pad` pixels, edges replicated (DrQ; Kostrikov et al., 2021).

    All frames of a sequence move together, so that motion stays what it was.

    Arguments:
        images: `[B, ..., H, W]`, any dtype.
        pad: largest shift in pixels; 0 returns the input.
        generator: on the CPU; None: torch's own.

    Raises:
        ValueError: `pad` is negative, or so large that nothing of an image might be left.
    """
    height, width = images.shape[-2:]
    if not 0 <= pad < min(height, width):
        raise ValueError(
            f"pad must be at least 0 and below both sides, got {pad} for images of {height}x{width}"
        )
    if not pad:
        return images
    return shift(images, torch.randint(-pad, pad + 1, (len(images), 2), generator=generator))


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift each of `images [*N, ..., H, W]` by its `offsets [*N, 2]`, down and right, edges replicated.

    On a CPU views are read as they lie, windows that overlap among them, and the result is written once.

    Arguments:
        offsets: integers on the CPU, whatever the device of the images, so that no GPU has to be waited for.

    Raises:
        ValueError: nothing of an image would be left.
    """
    height, width = images.shape[-2:]
    if (offsets.abs() >= torch.tensor([height, width])).any():
        down, right = offsets.abs().flatten(0, -2).amax(0).tolist()
        raise ValueError(f"offsets up to {down} and {right} leave nothing of images of {height}x{width}")
    return (_by_slices if images.device.type == "cpu" else _by_indices)(images, offsets)


def _by_indices(images: Tensor, offsets: Tensor) -> Tensor:
    """Every pixel looked up at once."""
    (height, width), lead = images.shape[-2:], offsets.shape[:-1]
    down, right = offsets.reshape(-1, 2).to(images.device, non_blocking=True).unsqueeze(-1).unbind(1)
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)  # [N, H]
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)  # [N, W]
    flat = images.reshape(lead.numel(), -1, height, width)
    flat = flat.gather(2, rows[:, None, :, None].expand(-1, flat.shape[1], -1, width))
    flat = flat.gather(3, columns[:, None, None, :].expand(-1, flat.shape[1], height, -1))
    return flat.reshape(images.shape)


def _by_slices(images: Tensor, offsets: Tensor) -> Tensor:
    """By copies of whole rows: on a CPU, looking up each pixel costs an order of magnitude more.

    In NumPy, to which a copy of some rows is a fraction of the call that it is to torch.
    """
    height, width = images.shape[-2:]
    same_size = torch.int16 if images.dtype is torch.bfloat16 else images.dtype  # NumPy has no bfloat16
    source = images.view(same_size).numpy()
    shifted = np.empty(source.shape, source.dtype)
    moves = offsets.numpy()
    for index in np.ndindex(offsets.shape[:-1]):
        out, image, (down, right) = shifted[index], source[index], moves[index]
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
    return torch.from_numpy(shifted).view(images.dtype)
