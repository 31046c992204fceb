"""What all heads share: a linear map from features to raw numbers, and scales kept between bounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOG_STD_BOUNDS = (-10.0, 10.0)  # natural logarithm of the smallest and the largest standard deviation
LARGEST_DIM = 1024  # of beliefs with D² parameters: a head for more would have half a million outputs


def linear(features: int, outputs: int) -> nn.Linear:
    """A linear map that starts near zero, so that a new head believes the same whatever it sees."""
    layer = nn.Linear(features, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class BoundedScale(nn.Module):
    r"""Raw numbers to standard deviations between bounds, :math:`\log\sigma` through a sigmoid.

    Neither a collapsing nor an exploding variance can reach the likelihood, and the gradient never vanishes
    entirely inside the bounds. It starts in their middle.

    Arguments:
        log_std_bounds: lowest and highest natural logarithm of :math:`\sigma`.
    """

    def __init__(self, log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS):
        super().__init__()
        low, high = log_std_bounds
        if not low < high:
            raise ValueError(f"log_std_bounds must be (low, high) with low < high, got {log_std_bounds}")
        self.low, self.high = low, high

    def forward(self, raw: Tensor) -> Tensor:
        return (self.low + (self.high - self.low) * torch.sigmoid(raw)).exp()


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
