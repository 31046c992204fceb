"""What video models are taught by, however: noisy views, and a resolution that falls."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from gje_world.beliefs import make_head
from gje_world.networks import mlp
from gje_world.world_model import LOG_STD_BOUNDS


def noisy_view(obs: Tensor, noise: float, generator: Generator | None = None) -> Tensor:
    """Observations uint8 `[..., C, H, W]` with normal noise of that many grey levels on every pixel."""
    drawn = torch.randn(obs.shape, generator=generator, device=obs.device)
    return (obs.float() + noise * drawn).round().clamp(0, 255).to(torch.uint8)


def view_predictor(dim: int, hidden: int) -> nn.Sequential:
    """From an embedding `[..., D]` of one view to a diagonal belief of how that of another differs."""
    head = make_head("diagonal", hidden, dim, log_std_bounds=LOG_STD_BOUNDS)
    return nn.Sequential(mlp(dim, hidden, 1), head)


def annealed(first: float, last: float, progress: float) -> float:
    """The resolution of a likelihood: it falls geometrically over the first 60 % of the learning.

    What is far apart is found first, so that no component of a mixture is left without a share.

    Arguments:
        first, last: resolutions above 0; one that is `first` already below `last` stays.
        progress: share of the learning that is done.
    """
    return first * min(1.0, last / first) ** min(1.0, progress / 0.6)
