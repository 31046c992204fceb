"""Diagonal Gaussian belief: each embedding dimension has its own mean and standard deviation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from gje_world.beliefs.belief import Belief


class DiagonalGaussian(Independent, Belief):
    r"""Belief :math:`N(\mu, \mathrm{diag}(\sigma^2))` over embeddings.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        std: :math:`\sigma > 0`, shape `[..., D]`.
    """

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__(Normal(mean, std, validate_args=False), 1, validate_args=False)

    def translate(self, offset: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean + offset, self.stddev)

    def resolved_log_prob(self, value: Tensor, resolution: float) -> Tensor:
        noise = resolution**2
        variance = self.variance + noise
        surprise = ((value - self.mean).square() + noise) / variance + variance.log()
        return -0.5 * (surprise + math.log(2 * math.pi)).sum(-1)

    def coverage(self, value: Tensor) -> Tensor:
        r"""Probability mass of the smallest region that holds `value`, shape `[...]`, in [0, 1].

        The region is the ellipsoid through `value`; its mass is the :math:`\chi^2_D` distribution function
        at the squared Mahalanobis distance. For a calibrated belief this is uniform over data.
        """
        mahalanobis = ((value - self.mean) / self.stddev).square().sum(-1)
        half_dim = torch.full_like(mahalanobis, self.event_shape[0] / 2)
        return torch.special.gammainc(half_dim, mahalanobis / 2)


class DiagonalHead(nn.Module):
    r"""Linear head that returns a :class:`DiagonalGaussian`.

    The log standard deviation passes through a sigmoid between its bounds, so that neither a collapsing nor
    an exploding variance can reach the likelihood; its gradient never vanishes entirely inside them.

    Arguments:
        features: number of input features.
        dim: embedding dimension :math:`D`.
        log_std_bounds: lowest and highest natural logarithm of :math:`\sigma`.
    """

    def __init__(self, features: int, dim: int, log_std_bounds: tuple[float, float] = (-5.0, 1.5)):
        super().__init__()
        low, high = log_std_bounds
        if not low < high:
            raise ValueError(f"log_std_bounds must be (low, high) with low < high, got {log_std_bounds}")
        self.low, self.high = low, high
        self.linear = nn.Linear(features, 2 * dim)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> DiagonalGaussian:
        mean, raw = self.linear(features).float().chunk(2, dim=-1)
        log_std = self.low + (self.high - self.low) * torch.sigmoid(raw)
        return DiagonalGaussian(mean, log_std.exp())
