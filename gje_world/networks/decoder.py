"""Image decoder: embedding in, picture out. For looking only: no gradient of it reaches an encoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

DOUBLINGS = 4


class Decoder(nn.Module):
    """A linear map to a small image, then four times nearest-neighbour doubling and a convolution.

    It tells the difference from a mean frame, in units of the pixels' deviation from it.

    Arguments:
        dim: embedding dimension `D`.
        channels: of the pictures, `C`.
        image_size: height and width, a multiple of 16.
        width: channels of the last hidden images; the first have four times as many.
    """

    mean_frame: Tensor
    std: Tensor

    def __init__(self, dim: int, channels: int = 3, image_size: int = 64, width: int = 16):
        super().__init__()
        self.architecture = {"dim": dim, "channels": channels, "image_size": image_size, "width": width}
        if image_size < 2**DOUBLINGS or image_size % 2**DOUBLINGS:
            raise ValueError(f"image_size must be a positive multiple of {2**DOUBLINGS}, got {image_size}")
        self.register_buffer("mean_frame", torch.full((channels, image_size, image_size), 127.5))
        self.register_buffer("std", torch.tensor(127.5))
        self.first = nn.Linear(dim, 4 * width * (image_size // 2**DOUBLINGS) ** 2)
        self.side = image_size // 2**DOUBLINGS
        widths = (4 * width, 4 * width, 2 * width, width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1),
                nn.GroupNorm(1, after),
                nn.SiLU(),
            ]
        self.rest = nn.Sequential(
            *layers, nn.Upsample(scale_factor=2), nn.Conv2d(width, channels, 3, padding=1)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def centre_on(self, frames: Tensor) -> None:
        """Take mean frame and deviation from uint8 `frames [N, C, H, W]`; call once, before training."""
        pixels = frames.float()
        self.mean_frame.copy_(pixels.mean(0))
        self.std.copy_((pixels - self.mean_frame).std().clamp(min=2.0))

    def forward(self, z: Tensor) -> Tensor:
        """The picture's difference from the mean frame in units of the deviation, `[..., C, H, W]`."""
        x = self.first(z.flatten(0, -2)).unflatten(-1, (-1, self.side, self.side))
        x = self.rest(x.contiguous(memory_format=torch.channels_last))
        return x.float().reshape(*z.shape[:-1], *x.shape[1:])

    def error(self, z: Tensor, frames: Tensor) -> Tensor:
        """Mean squared error, in those units, of the pictures of `z [..., D]` from uint8 `frames`."""
        return (self(z) - (frames.float() - self.mean_frame) / self.std).square().mean()

    @torch.no_grad()
    def draw(self, z: Tensor) -> Tensor:
        """Pictures uint8 `[..., C, H, W]` of `z [..., D]`."""
        return (self(z) * self.std + self.mean_frame).round().clamp(0, 255).to(torch.uint8)
