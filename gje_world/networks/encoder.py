"""What every image encoder is: pixels in, embedding out, and a folder on disk that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gje_world.networks.exported import write_modules


class Encoder(nn.Module):
    """Maps images to embeddings; normalises the pixels itself.

    A subclass names itself, passes its sizes here, and has its further options as attributes of their names.

    Arguments:
        channels: input channels `C`.
        dim: embedding dimension `D`.
        image_size: height and width of the images.
    """

    name: ClassVar[str]  # in `gje_world.networks.ENCODERS`
    options: ClassVar[tuple[str, ...]] = ()  # of the subclass, beyond the three that all have
    any_size: ClassVar[bool] = False  # whether images may also be smaller than `image_size`

    def __init__(self, channels: int, dim: int, image_size: int):
        super().__init__()
        self.channels, self.dim, self.image_size = channels, dim, image_size

    def forward(self, obs: Tensor) -> Tensor:
        """Embed pixels from 0 to 255, uint8 or floating, `[..., C, H, W]` as float32 `[..., D]`.

        Raises:
            ValueError: the images are not of a shape that it takes (`require_fitting`).
        """
        raise NotImplementedError

    def require_fitting(self, obs: Tensor) -> None:
        """Refuses images of another shape.

        Raises:
            ValueError: naming theirs, and that which would fit.
        """
        size = ("H", "W") if self.any_size else (self.image_size,) * 2
        if obs.ndim < 3 or obs.shape[-3] != self.channels or not (self.any_size or obs.shape[-2:] == size):
            fitting = ", ".join(map(str, ("...", self.channels, *size)))
            raise ValueError(f"images must be [{fitting}] for this encoder, got {list(obs.shape)}")

    def centre_on(self, obs: Tensor) -> None:
        """Take what pixels are normalised by from `obs`, uint8 `[N, C, H, W]`; call once, before training."""

    @property
    def architecture(self) -> dict[str, Any]:
        """Name, sizes and options: what `gje_world.networks.make_encoder` makes another one of."""
        own = ("channels", "dim", "image_size", *self.options)
        return {"name": self.name} | {option: getattr(self, option) for option in own}

    @property
    def normalisation(self) -> dict[str, Any]:
        """What pixels are normalised by, for a reader; the numbers themselves are among the weights."""
        raise NotImplementedError

    def save(self, path: Path | str, **provenance: Any) -> None:
        """Write `encoder.safetensors` and `encoder.json` into the folder `path`, which is made if missing.

        Arguments:
            provenance: where the weights come from, such as the training run and the licence of its data:
                nested plain values.
        """
        write_modules(path, {"encoder": self}, {"encoder": self.description, "provenance": provenance})

    @property
    def description(self) -> dict[str, Any]:
        """Its entry in `encoder.json`."""
        return {"architecture": self.architecture, "normalisation": self.normalisation}


def channels_last(obs: Tensor) -> Tensor:
    """`obs [..., C, H, W]` as images `[N, C, H, W]`, channels last in memory.

    On a CPU `contiguous` with that memory format takes half as long again.
    """
    images = obs.reshape(-1, *obs.shape[-3:])
    pixels = images.flatten(2).transpose(1, 2).contiguous()  # [N, H*W, C]
    return pixels.transpose(1, 2).unflatten(2, images.shape[2:])


class PixelNorm(nn.Module):
    """Pixels to about zero mean and unit variance, one mean and deviation a channel.

    Arguments:
        channels: `C`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.full((channels, 1, 1), 127.5))
        self.register_buffer("std", torch.full((channels, 1, 1), 64.0))

    @torch.no_grad()
    def fit(self, obs: Tensor) -> None:
        """Take mean and deviation from `obs [N, C, H, W]`."""
        pixels = obs.float().movedim(1, 0).flatten(1)
        self.mean.copy_(pixels.mean(1)[:, None, None])
        # a floor of two grey levels: a channel that never changes must not amplify rounding noise
        self.std.copy_(pixels.std(1).clamp(min=2.0)[:, None, None])

    def forward(self, obs: Tensor) -> Tensor:
        """Of `[..., C, H, W]`, channels last in memory, as float32 `[N, C, H, W]`."""
        return (channels_last(obs).float() - self.mean) / self.std

    @property
    def normalisation(self) -> dict[str, Any]:
        """Means and deviations as plain values."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


class Features(Encoder):
    """An encoder whose network has features `[N, F]`; a linear map follows where `D` is not `F`.

    Arguments:
        features: `F`.
        dim: embedding dimension `D`; None for the features themselves.
    """

    def __init__(self, channels: int, dim: int | None, image_size: int, features: int):
        super().__init__(channels, features if dim is None else dim, image_size)
        self.pixels = PixelNorm(channels)
        self.project = nn.Identity() if self.dim == features else nn.Linear(features, self.dim)

    def features(self, images: Tensor) -> Tensor:
        """Features `[N, F]` of normalised images `[N, C, H, W]`; what a subclass computes."""
        raise NotImplementedError

    def forward(self, obs: Tensor) -> Tensor:
        self.require_fitting(obs)
        z = self.project(self.features(self.pixels(obs)))
        return z.float().reshape(*obs.shape[:-3], self.dim)

    def centre_on(self, obs: Tensor) -> None:
        self.pixels.fit(obs)

    @property
    def normalisation(self) -> dict[str, Any]:
        return self.pixels.normalisation
