"""Views of images, drawn on the device, a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from gje_world.options import ConfigError, option, require_at_least

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as everywhere
# to one luma and two colour differences, in whose plane a hue is an angle (the NTSC television standard)
YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
FROM_YIQ = tuple(map(tuple, torch.linalg.inv(torch.tensor(YIQ)).tolist()))
SHARP = 32  # pixels up to which images are not blurred (Chen et al., 2020, B.9)
WHITE = 255.0


def per_view(values: list[float], help: str) -> Any:
    return field(default_factory=lambda: list(values), metadata={"help": help})


@dataclass
class AugmentConfig:
    """How views are drawn (config group `augment`); probabilities and ranges of two values are per view."""

    name: str = option("simclr", "set by the group: augment=simclr")
    crop: list[float] = per_view([0.08, 1.0], "smallest and largest area of a crop, as a share of the image")
    aspect: float = option(4 / 3, "largest ratio of a crop's sides")
    flip: float = option(0.5, "probability of a horizontal flip")
    jitter: list[float] = per_view(
        [0.4, 0.4, 0.4, 0.1], "largest change of brightness, contrast, saturation and hue (of a full turn)"
    )
    jitter_probability: float = option(0.8, "of changing colours at all")
    grey: float = option(0.2, "probability of no colours")
    blur: list[float] = per_view([0.0, 0.0], "probability of a Gaussian blur, of the two views")
    solarize: list[float] = per_view([0.0, 0.0], "probability of inverting what is bright, of the two views")
    local_views: int = option(0, "small crops beside the others (DINO)")
    local_crop: list[float] = per_view([0.05, 0.4], "smallest and largest area of a small crop")
    local_blur: float = option(0.0, "probability of a Gaussian blur of a small crop")
    local_size: int | None = option(None, "their pixels; null: half, where the encoder takes any size")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: the first option found wrong.
        """
        for name in ("crop", "local_crop"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
                raise ConfigError(f"augment.{name}={value} must be two shares, 0 < smallest <= largest <= 1")
        require_at_least(1, self, "aspect", prefix="augment.")
        for name, count in (("blur", 2), ("solarize", 2), ("jitter", 4)):
            value = getattr(self, name)
            if len(value) != count or not all(0 <= each <= 1 for each in value):
                raise ConfigError(f"augment.{name}={value} must be {count} numbers from 0 to 1")
        for name in ("flip", "jitter_probability", "grey", "local_blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name}={getattr(self, name)} must be between 0 and 1")
        require_at_least(0, self, "local_views", prefix="augment.")
        require_at_least(8, self, "local_size", prefix="augment.")


@cache
def constant(values: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers as a float32 tensor, brought to the device once: each time would have it wait."""
    return torch.tensor(values, dtype=torch.float32, device=device)


class Views:
    """Draws groups of views of images: `count` of the image's size, and the small ones if there are any.

    Crop and flip are one resampling, and all changes of colour one affine map for each image: passes over the
    pixels are what augmentation costs. One after the other, as kornia's own modules make them, they take five
    times as long on a CPU.

    Arguments:
        config: the recipe.
        count: views in the first group.
        local_size: pixels of the small views, where the recipe leaves it open.
    """

    def __init__(self, config: AugmentConfig, count: int, local_size: int):
        self.config, self.count = config, count
        self.local_size = config.local_size or local_size

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Groups `[V, B, C, H, W]`, float32 from 0 to 255, of uint8 `images [B, C, H, W]`."""
        c, size = self.config, images.shape[-1]
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float()
            drawn = [(c.blur[index % 2], c.solarize[index % 2]) for index in range(self.count)]
            groups = [torch.stack([self.view(pixels, c.crop, size, *each) for each in drawn])]
            if c.local_views:
                few = (pixels, c.local_crop, self.local_size, c.local_blur, 0.0)
                groups.append(torch.stack([self.view(*few) for _ in range(c.local_views)]))
        return groups

    def view(self, images: Tensor, crop: list[float], size: int, blurred: float, solarized: float) -> Tensor:
        """A view `[B, C, size, size]` of floating `images [B, C, H, W]`, with two of its probabilities."""
        c = self.config
        boxes = random_boxes(len(images), crop, c.aspect, images.device)
        views = resample(images, boxes, happens(images, c.flip), size)
        views = recolour(views, self.colours(views))
        if blurred and size > SHARP:
            views = blur(views, happens(images, blurred))
        if solarized:
            inverted = torch.where(views < WHITE / 2, views, WHITE - views)
            views = torch.where(happens(images, solarized)[:, None, None, None], inverted, views)
        return views

    def colours(self, images: Tensor) -> Tensor:
        """Random affine maps of colours `[B, 3, 4]`, around each image's own mean luma."""
        c = self.config
        changes = uniform(images, 4, -1, 1) * constant(tuple(c.jitter), images.device)
        changes = changes * happens(images, c.jitter_probability).unsqueeze(1)
        brightness, contrast, saturation, hue = changes.unbind(1)
        saturation = torch.where(happens(images, c.grey), -1.0, saturation)
        frames = images.shape[1] // 3
        luma = constant(LUMA, images.device).repeat(frames) / frames
        mean = images.mean((-2, -1)) @ luma
        return colour_map(1 + brightness, 1 + contrast, 1 + saturation, hue, mean)


def uniform(images: Tensor, count: int, low: float, high: float) -> Tensor:
    """Numbers `[B, count]` between `low` and `high`."""
    return torch.rand(len(images), count, device=images.device) * (high - low) + low


def happens(images: Tensor, probability: float) -> Tensor:
    """Whether something of that probability happens to each image, `[B]`."""
    return torch.rand(len(images), device=images.device) < probability


def random_boxes(count: int, area: list[float], aspect: float, device: torch.device) -> Tensor:
    """Boxes `[B, 4]` as centre x, y and half width, height, the image being from -1 to 1.

    Areas are uniform in `area`, logarithms of the ratio of sides uniform up to that of `aspect`, places
    uniform where the box lies within the image (Szegedy et al., 2015); a side longer than the image's is cut.
    """
    share, ratio, x, y = torch.rand(4, count, device=device)
    share = area[0] + (area[1] - area[0]) * share
    ratio = (math.log(aspect) * (ratio - 0.5)).exp()  # the square root of the ratio of sides
    width, height = (share.sqrt() * ratio).clamp(max=1), (share.sqrt() / ratio).clamp(max=1)
    return torch.stack([(2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height), width, height], 1)


def resample(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Boxes `[B, 4]` of `images [B, C, H, W]`, mirrored where `flip [B]`: `[B, C, size, size]`."""
    x, y, width, height = boxes.unbind(1)
    width = torch.where(flip, -width, width)
    nothing = torch.zeros_like(x)
    affine = torch.stack([torch.stack([width, nothing, x], 1), torch.stack([nothing, height, y], 1)], 1)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def colour_map(brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, mean: Tensor) -> Tensor:
    """Affine maps of colours `[B, 3, 4]` that do all four: factors `[B]`, and the hue as a share of a turn.

    Contrast is around the luma `mean [B]` of the image; saturation 0 leaves the luma alone; the hue turns in
    the plane of colour differences, which takes no HSV and is linear.
    """
    angle = 2 * math.pi * hue
    cosine, sine, one, nothing = angle.cos(), angle.sin(), torch.ones_like(hue), torch.zeros_like(hue)
    rows = ((one, nothing, nothing), (nothing, cosine, -sine), (nothing, sine, cosine))
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)  # [B, 3, 3]
    turn[:, 1:] *= saturation[:, None, None]
    to_yiq, from_yiq = constant(YIQ, hue.device), constant(FROM_YIQ, hue.device)
    linear = from_yiq @ turn @ to_yiq * (brightness * contrast)[:, None, None]
    offset = (brightness * (1 - contrast) * mean).unsqueeze(1).expand(-1, 3)
    return torch.cat([linear, offset.unsqueeze(2)], 2)


def recolour(images: Tensor, colours: Tensor) -> Tensor:
    """Maps `[B, 3, 4]` of the colours of `images [B, 3·F, H, W]`, cut off at black and white."""
    pixels = images.reshape(-1, 3, images.shape[-2] * images.shape[-1])  # [B·F, 3, H·W]
    colours = colours.repeat_interleave(images.shape[1] // 3, 0)
    changed = torch.baddbmm(colours[..., 3:], colours[..., :3], pixels)
    return changed.clamp_(0, WHITE).view(images.shape)


def blur(images: Tensor, which: Tensor) -> Tensor:
    """Those of `images [B, C, H, W]` where `which [B]`, blurred by 0.1 to 2 pixels (Chen et al., 2020, A)."""
    width = max(3, images.shape[-1] // 10 // 2 * 2 + 1)
    # on the CPU, where it can be looked at without waiting for the device
    sigma = (torch.rand(len(images), 1) * 1.9 + 0.1).expand(-1, 2)
    blurred = gaussian_blur2d(images, (width, width), sigma)
    return torch.where(which[:, None, None, None], blurred, images)
