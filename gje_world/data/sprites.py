"""Sprites: shapes and digits drawn anywhere between the pixels, with soft edges."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.ndimage

Array = npt.NDArray[np.float32]

SHAPES = ("disc", "square", "triangle")
DIGITS = tuple("0123456789")
FINE = 16  # texture points a pixel: a sprite's place is drawn to a thirty-second of a pixel

_DIGIT_ROWS = {  # three by five blocks
    "0": ("###", "# #", "# #", "# #", "###"),
    "1": (" # ", "## ", " # ", " # ", "###"),
    "2": ("###", "  #", "###", "#  ", "###"),
    "3": ("###", "  #", " ##", "  #", "###"),
    "4": ("# #", "# #", "###", "  #", "  #"),
    "5": ("###", "#  ", "###", "  #", "###"),
    "6": ("###", "#  ", "###", "# #", "###"),
    "7": ("###", "  #", " # ", " # ", " # "),
    "8": ("###", "# #", "###", "# #", "###"),
    "9": ("###", "# #", "###", "  #", "###"),
}


def paint(
    canvas: Array,
    kind: npt.NDArray,
    place: npt.NDArray,
    colour: npt.NDArray,
    radius: float,
    kinds: tuple[str, ...],
) -> Array:
    """Lay one sprite over each frame of `canvas [N, H, W, 3]`, grey levels 0 to 255; in place, and returned.

    Arguments:
        kind: index into `kinds`, `[N]`.
        place: centre `[N, 2]` as `(x, y)`, in units in which the frame reaches from -1 to 1, y downwards.
        colour: `[N, 3]`.
        radius: half the side of the sprite's box, in the same unit.
        kinds: names of shapes or digits.
    """
    size = canvas.shape[1]
    textures = np.stack([_texture(name, size, radius) for name in kinds])
    middle = textures.shape[1] // 2
    centre = (np.asarray(place, np.float32) + 1) * (size / 2) - 0.5  # in pixels, [N, 2]
    reach = math.ceil(radius * size / 2) + 2
    pixels = np.rint(centre)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)[:, None]
    pixels = np.clip(pixels, 0, size - 1)  # [N, P, 2]; one that stands twice is painted alike both times
    fine = np.rint((pixels - centre[:, None]) * FINE).astype(np.int64) + middle
    fine = np.clip(fine, 0, 2 * middle)
    which = kind.astype(np.int64)[:, None, None]
    cover = textures[which, fine[:, :, None, 1], fine[:, None, :, 0], None]  # [N, P, P, 1]
    patch = np.arange(len(canvas))[:, None, None], pixels[:, :, None, 1], pixels[:, None, :, 0]
    behind = canvas[patch]
    canvas[patch] = behind + cover * (colour[:, None, None, :] - behind)
    return canvas


@cache
def _texture(name: str, size: int, radius: float) -> Array:
    """Share of a pixel that the sprite covers, by the pixel's place about its centre; zero at the rim."""
    reach = round((radius * size / 2 + 1.5) * FINE)
    unit = np.arange(-reach, reach + 1) / (radius * size / 2 * FINE)  # 1 at the edge of the sprite's box
    x, y = np.meshgrid(unit, unit)
    inside = _inside(name, x, y).astype(np.float32)
    return scipy.ndimage.uniform_filter(inside, FINE, mode="constant")


def _inside(name: str, x: npt.NDArray, y: npt.NDArray) -> npt.NDArray[np.bool_]:
    if name == "disc":
        return x**2 + y**2 <= 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85
    if name == "triangle":
        return (y <= 0.75) & (abs(x) <= (y + 1) * 0.57)
    blocks = np.array([[mark == "#" for mark in row] for row in _DIGIT_ROWS[name]])
    row, column = np.floor((y + 1) * 2.5).astype(int), np.floor((x + 0.6) * 2.5).astype(int)
    within = (row >= 0) & (row < 5) & (column >= 0) & (column < 3)
    return within & blocks[np.clip(row, 0, 4), np.clip(column, 0, 2)]
