"""What video models are taught by, however: views of an observation, and a resolution that falls."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from gje_world.beliefs import make_head, unit_scale_options
from gje_world.data.augment import random_shift
from gje_world.networks import mlp


def shifted_view(obs: Tensor, noise: float, pad: int, generator: Generator | None = None) -> Tensor:
    """A view of each of `obs`, uint8 `[N, C, H, W]`: shifted by up to `pad` pixels, and noisy in every one.

    A function of place that changes within a shift is not told by another view: such functions, of which
    there are any number, do not fill the embedding, and what else is there has room.

    Arguments:
        noise: standard deviation of the noise, in grey levels.
    """
    drawn = torch.randn(obs.shape, generator=generator, device=obs.device)
    return (random_shift(obs, pad, generator).float() + noise * drawn).round().clamp(0, 255).to(torch.uint8)


def view_predictor(dim: int, hidden: int) -> nn.Sequential:
    """From an embedding `[..., D]` of one view to a diagonal belief of how that of another differs."""
    head = make_head("diagonal", hidden, dim, **unit_scale_options("diagonal"))
    return nn.Sequential(mlp(dim, hidden, 1), head)


def annealed(first: float, last: float, progress: float) -> float:
    """The resolution of a likelihood: it falls geometrically over the first 60 % of the learning.

    What is far apart is found first, so that no component of a mixture is left without a share.

    Arguments:
        first, last: resolutions above 0; one that is `first` already below `last` stays.
        progress: share of the learning that is done.
    """
    return first * min(1.0, last / first) ** min(1.0, progress / 0.6)
