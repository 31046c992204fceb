"""What all heads share: a linear map from features to raw numbers, and scales kept between bounds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

LOG_STD_BOUNDS = (-10.0, 10.0)  # natural logarithm of the smallest and the largest standard deviation
LARGEST_LOG_STD = 40  # whose square float32 still holds
LARGEST_DIM = 1024  # of beliefs with D² parameters: a head for more would have half a million outputs


def linear(features: int, outputs: int) -> nn.Linear:
    """A linear map that starts near zero, so that a new head believes the same whatever it sees."""
    layer = nn.Linear(features, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class BoundedScale(nn.Module):
    r"""Raw numbers to standard deviations between bounds, :math:`\log\sigma` through a hyperbolic tangent.

    Neither a collapsing nor an exploding variance can reach the likelihood; the gradient fades towards the
    bounds. It starts in their middle, where one unit of the raw number is one nat of
    :math:`\log\sigma` however far the bounds are apart: were it more, an optimiser's steps would be too large
    for the scales while right for the means.

    Arguments:
        log_std_bounds: lowest and highest natural logarithm of :math:`\sigma`, at most 40 from 0.
    """

    def __init__(self, log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS):
        super().__init__()
        low, high = log_std_bounds
        if not low < high:
            raise ValueError(f"log_std_bounds must be (low, high) with low < high, got {log_std_bounds}")
        if not max(-low, high) <= LARGEST_LOG_STD:
            raise ValueError(f"log_std_bounds must be within {LARGEST_LOG_STD} of 0, got {log_std_bounds}")
        self.middle, self.reach = (low + high) / 2, (high - low) / 2

    def forward(self, raw: Tensor) -> Tensor:
        return (self.middle + self.reach * torch.tanh(raw / self.reach)).exp()


def of_numbers() -> AbstractContextManager[Any]:
    """A context for making parts that cannot be made without their numbers, also where only shapes are asked
    for, as by `torch.device("meta")`.
    """
    return torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()


def require_dim(name: str, dim: int, low: int = 1, high: int | None = None, instead: str = "") -> None:
    """Refuses an embedding dimension that a belief cannot have.

    Raises:
        ValueError: naming the belief, the dimension and what would do.
    """
    if dim < low:
        raise ValueError(f"belief={name} needs an embedding dimension of at least {low}, got {dim}")
    if high is not None and dim > high:
        raise ValueError(
            f"belief={name} needs an embedding dimension of at most {high}, got {dim}; {instead}"
        )
