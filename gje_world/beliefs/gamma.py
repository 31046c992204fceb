"""Differences of gamma functions far out, where the two nearly cancel in float32."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 8  # from where on Stirling's series is exact to float32


def log_gamma_ratio(x: Tensor, step: float) -> Tensor:
    r""":math:`\log\Gamma(x + s) - \log\Gamma(x)` elementwise, for `x` and the step :math:`s` above 0.

    By Stirling's series (Abramowitz and Stegun, 1964, 6.1.41), both ends taken together, after
    :math:`\Gamma(x + 1) = x\,\Gamma(x)` has moved `x` to where it converges.
    """
    below = sum(torch.log1p(step / (x + k)) for k in range(SHIFT))
    low = x + SHIFT
    high = low + step
    series = (1 / high - 1 / low) / 12 - (high**-3 - low**-3) / 360
    return (low - 0.5) * torch.log1p(step / low) + step * (high.log() - 1) + series - below


def digamma_difference(x: Tensor, step: float) -> Tensor:
    r""":math:`\psi(x + s) - \psi(x)` elementwise, the derivative of :func:`log_gamma_ratio` (6.3.18)."""
    below = sum(step / ((x + k) * (x + k + step)) for k in range(SHIFT))
    low = x + SHIFT
    high = low + step
    series = -(high**-2 - low**-2) / 12 + (high**-4 - low**-4) / 120
    return torch.log1p(step / low) - (1 / high - 1 / low) / 2 + series + below
