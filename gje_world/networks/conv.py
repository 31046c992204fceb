"""Convolutional image encoder: uint8 pixels in, embedding out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gje_world.networks.encoder import Encoder, channels_last

STRIDES = 4  # stride-2 convolutions, each of which halves the image


class ConvEncoder(Encoder):
    """Four stride-2 convolutions, each with GroupNorm(1) and SiLU, then a linear map to the embedding.

    The input is centred on a mean frame and divided by the pixels' deviation from it: in a rendered scene
    most pixels never change, and what moves would otherwise be a small signal on a large offset.

    Arguments:
        channels: input channels `C` (stacked frames included).
        dim: embedding dimension `D`.
        image_size: height and width, a multiple of 16.
        width: channels of the second convolution. The first, on the largest maps and so the dearest, has half
            as many; the last two have twice as many.
    """

    name = "conv"
    options: ClassVar[tuple[str, ...]] = ("width",)
    mean_frame: Tensor
    inverse_std: Tensor

    def __init__(self, channels: int, dim: int, image_size: int = 64, width: int = 32):
        super().__init__(channels, dim, image_size)
        if image_size < 2**STRIDES or image_size % 2**STRIDES:
            raise ValueError(f"image_size must be a positive multiple of {2**STRIDES}, got {image_size}")
        self.width = width
        # laid out as the images are when they meet: channels last
        grey = torch.full((image_size, image_size, channels), 127.5).permute(2, 0, 1)
        self.register_buffer("mean_frame", grey)
        self.register_buffer("inverse_std", torch.tensor(1 / 127.5))
        widths = (max(1, width // 2), width, 2 * width, 2 * width)
        self.first = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1)
        layers: list[nn.Module] = [nn.GroupNorm(1, widths[0]), nn.SiLU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.SiLU()]
        self.rest = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.project = nn.Linear(widths[-1] * (image_size // 2**STRIDES) ** 2, dim)

    @torch.no_grad()
    def centre_on(self, obs: Tensor) -> None:
        """Take mean frame and deviation from `obs`, uint8 `[N, C, H, W]`; call once, before training."""
        pixels = obs.float()
        self.mean_frame.copy_(pixels.mean(0))
        # a floor of two grey levels: a scene in which nothing moved must not amplify rounding noise
        self.inverse_std.copy_(1 / (pixels - self.mean_frame).std().clamp(min=2.0))

    @property
    def normalisation(self) -> dict[str, Any]:
        mean = self.mean_frame.mean((-2, -1)).tolist()
        return {"mean_frame": "one for each pixel", "mean": mean, "std": 1 / self.inverse_std.item()}

    def forward(self, obs: Tensor) -> Tensor:
        self.require_fitting(obs)
        lead, device = obs.shape[:-3], obs.device.type
        # pixels are the largest tensor here: pass over them once, in the precision the convolution takes;
        # whole numbers up to 256 are exact in bfloat16, and the scale goes into the first, small weight
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        x = channels_last(obs)
        if x.is_floating_point():  # such as a view, whose pixels are not whole
            x = (x.float() - self.mean_frame).to(dtype)
        else:
            x = x.to(dtype, copy=True).sub_(self.mean_frame.to(dtype))
        x = F.conv2d(x, self.first.weight * self.inverse_std, self.first.bias, stride=2, padding=1)
        return self.project(self.rest(x).flatten(1)).float().reshape(*lead, self.dim)
