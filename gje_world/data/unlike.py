"""Images unlike any photograph or scene, drawn on the spot: noise, textures, digits.

What an out-of-distribution score should find, with nothing to download.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def noise(count: int, image_size: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise about grey, of a deviation of its own for each image; uint8 `[N, H, W, 3]`."""
    deviation = generator.uniform(20, 90, (count, 1, 1, 1))
    pixels = 127.5 + deviation * generator.standard_normal((count, image_size, image_size, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


def textures(count: int, image_size: int, generator: np.random.Generator) -> np.ndarray:
    """Plain colours, stripes, checkerboards and plaids in two colours; uint8 `[N, H, W, 3]`."""
    side = np.arange(image_size, dtype=np.float64)
    y, x = side[:, None], side[None, :]
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    for i in range(count):
        first, second = generator.uniform(0, 255, (2, 3))
        angle, period = generator.uniform(0, np.pi), generator.uniform(image_size / 12, image_size / 3)
        shift_u, shift_v = generator.uniform(0, 2 * np.pi, 2)
        u = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + shift_u
        v = 2 * np.pi * (np.cos(angle) * y - np.sin(angle) * x) / period + shift_v
        kind = generator.integers(4)
        if kind == 0:
            mix = np.zeros_like(u)
        elif kind == 1:
            mix = (np.sin(u) > 0).astype(np.float64)
        elif kind == 2:
            mix = (np.sin(u) * np.sin(v) > 0).astype(np.float64)
        else:
            mix = (2 + np.sin(u) + np.sin(v)) / 4
        images[i] = (first + mix[..., None] * (second - first)).round()
    return images


def digits(count: int, image_size: int, generator: np.random.Generator) -> np.ndarray:
    """A digit, in a size, place, slant and colours of its own, on a plain ground; uint8 `[N, H, W, 3]`."""
    font_file = findfont(FontProperties(family="DejaVu Sans"))  # comes with matplotlib
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    for i in range(count):
        font = ImageFont.truetype(font_file, round(image_size * generator.uniform(0.6, 0.95)))
        ground, ink = (tuple(int(each) for each in generator.integers(256, size=3)) for _ in range(2))
        picture = Image.new("RGB", (image_size, image_size), ground)
        place = tuple(image_size * generator.uniform(0.42, 0.58, 2))
        ImageDraw.Draw(picture).text(place, str(generator.integers(10)), ink, font, anchor="mm")
        slant = generator.uniform(-20, 20)
        images[i] = np.asarray(picture.rotate(slant, Image.Resampling.BILINEAR, fillcolor=ground))
    return images


KINDS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "textures": textures,
    "digits": digits,
}


def unlike_images(kind: str, count: int, channels: int = 3, image_size: int = 32, seed: int = 0) -> Tensor:
    """So many images of a `kind` of `KINDS`, uint8 `[N, C, H, W]`; always the same ones for a seed.

    Where there are more than three channels, the image stands still in all frames of the stack.

    Raises:
        ValueError: `channels` is no multiple of 3.
    """
    if channels < 3 or channels % 3:
        raise ValueError(f"channels must be a multiple of 3, got {channels}")
    drawn = KINDS[kind](count, image_size, np.random.default_rng(seed))
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).repeat(1, channels // 3, 1, 1).contiguous()
