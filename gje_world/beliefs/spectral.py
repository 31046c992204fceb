"""Spectral Gaussian belief: axes shared by all inputs, variances along them that depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gje_world.beliefs.gaussian import Gaussian, in_full_precision
from gje_world.beliefs.head import LARGEST_DIM, LOG_STD_BOUNDS, BoundedScale, linear, of_numbers, require_dim


class SpectralGaussian(Gaussian):
    r"""Belief :math:`N(\mu, Q\,\mathrm{diag}(\sigma^2)\,Q^\top)`, :math:`O(D^2)` a sample or a log-density.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        std: :math:`\sigma > 0` along the axes, shape `[..., D]`.
        basis: :math:`Q`, orthogonal, its columns the axes, shape `[D, D]`.
    """

    name = "spectral"

    def __init__(self, mean: Tensor, std: Tensor, basis: Tensor):
        super().__init__(mean)
        self.std, self.basis = std, basis

    @property
    @in_full_precision
    def variance(self) -> Tensor:
        return self.std.square() @ self.basis.square().mT

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        return (self.basis * self.std.square().unsqueeze(-2)) @ self.basis.mT

    @property
    def half_log_det(self) -> Tensor:
        return self.std.log().sum(-1)

    @property
    def precision_trace(self) -> Tensor:
        return self.std.square().reciprocal().sum(-1)

    def whiten(self, error: Tensor) -> Tensor:
        return (error @ self.basis) / self.std

    def colour(self, noise: Tensor) -> Tensor:
        return (noise * self.std) @ self.basis.mT

    def blur(self, resolution: float) -> SpectralGaussian:
        return SpectralGaussian(self.mean, (self.std.square() + resolution**2).sqrt(), self.basis)

    def translate(self, offset: Tensor) -> SpectralGaussian:
        return SpectralGaussian(self.mean + offset, self.std, self.basis)

    def rescale(self, scale: Tensor) -> SpectralGaussian:
        std = self.std.expand_as(self.mean) * scale.unsqueeze(-1)
        return SpectralGaussian(self.mean.expand_as(std), std, self.basis)


class SpectralHead(nn.Module):
    """Linear head that returns a :class:`SpectralGaussian`; the basis is a parameter kept orthogonal.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`, at most 1024.
        log_std_bounds: lowest and highest natural logarithm of the standard deviations along the axes.
    """

    def __init__(self, features: int, dim: int, log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS):
        super().__init__()
        require_dim("spectral", dim, high=LARGEST_DIM, instead="low_rank has no such limit")
        self.scale = BoundedScale(log_std_bounds)
        self.linear = linear(features, 2 * dim)
        with of_numbers():
            axes = nn.Linear(dim, dim, bias=False)
            self.axes = parametrizations.orthogonal(axes, orthogonal_map="cayley")

    def forward(self, features: Tensor) -> SpectralGaussian:
        mean, raw = self.linear(features).float().chunk(2, dim=-1)
        with torch.autocast(raw.device.type, enabled=False):
            basis: Tensor = self.axes.weight  # type: ignore[assignment]
        return SpectralGaussian(mean, self.scale(raw), basis)
