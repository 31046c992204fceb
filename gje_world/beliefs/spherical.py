"""Beliefs over directions: the power spherical distribution, and direction times radius."""

from __future__ import annotations

import math

import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.gamma import digamma_difference, log_gamma_ratio
from gje_world.beliefs.head import BoundedScale, linear, require_dim

LOG_CONCENTRATION_BOUNDS = (-5.0, 10.0)  # from all over the sphere to within a hundredth of a radian
LOG_RADIUS_STD_BOUNDS = (-5.0, 1.0)  # the spread is relative to the radius: it needs no scale of its own
LARGEST_LOG_RADIUS = 12.0  # or the smallest, below 0
SMALLEST_RADIUS = 1e-5  # in embedding units: a change that is none has no direction, and must have a gradient


class PowerSpherical(Belief):
    r"""Belief :math:`p(u) \propto (1 + \mu^\top u)^\kappa` over unit vectors (De Cao and Aziz, 2020, eq. 1).

    Like a von Mises-Fisher distribution, but with an exact sampler and normaliser. Densities are with
    respect to the area of the unit sphere.

    Arguments:
        direction: :math:`\mu`, of unit length, shape `[..., D]`, `D` at least 2.
        concentration: :math:`\kappa > 0`, shape `[...]`.
    """

    name = "power_spherical"

    def __init__(self, direction: Tensor, concentration: Tensor):
        self.direction, self.concentration = direction, concentration
        super().__init__(direction.shape[:-1], direction.shape[-1])
        self.beta = (self.dim - 1) / 2
        self.alpha = self.beta + concentration

    @property
    def mean(self) -> Tensor:
        return self.direction * (self.concentration / (self.alpha + self.beta)).unsqueeze(-1)

    def _variances(self) -> tuple[Tensor, Tensor]:
        r"""Of :math:`\mu^\top u`, and along each axis across; `[...]`."""
        total = self.alpha + self.beta
        # mu^T u is 2 B - 1 with B ~ Beta(alpha, beta); its square has mean 1 - spread
        spread = 4 * self.alpha * self.beta / (total * (total + 1))
        return spread / total, spread / (self.dim - 1)

    @property
    def variance(self) -> Tensor:
        along, across = (part.unsqueeze(-1) for part in self._variances())
        return across + (along - across) * self.direction.square()

    @property
    def covariance_matrix(self) -> Tensor:
        along, across = (part[..., None, None] for part in self._variances())
        outer = self.direction.unsqueeze(-1) * self.direction.unsqueeze(-2)
        eye = torch.eye(self.dim, dtype=outer.dtype, device=outer.device)
        return across * eye + (along - across) * outer

    def _log_highest(self) -> Tensor:
        """Log-density at the mean direction, `[...]`."""
        return log_gamma_ratio(self.alpha, self.beta) - self.beta * math.log(4 * math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density `[...]` at unit vectors `value [..., D]`."""
        # (1 + cosine) / 2, of the distance, which is exact where the two are close
        lost = (value.to(self.direction.dtype) - self.direction).square().sum(-1) / 4
        return self._log_highest() + self.concentration * torch.log1p(-lost.clamp(max=1 - 1e-7))

    def entropy(self) -> Tensor:
        """In closed form (De Cao and Aziz, 2020, eq. 9)."""
        return self.concentration * digamma_difference(self.alpha, self.beta) - self._log_highest()

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        """Algorithm 1 of De Cao and Aziz (2020): a Beta-distributed cosine, then a reflection."""
        shape = self._extended_shape(sample_shape)
        alpha = self.alpha.expand(shape[:-1])
        beta = torch.full_like(alpha, self.beta)
        cosine = 2 * torch.distributions.Beta(alpha, beta, validate_args=False).rsample() - 1
        side = F.normalize(
            torch.randn((*shape[:-1], self.dim - 1), dtype=alpha.dtype, device=alpha.device), dim=-1
        )
        cosine = cosine.unsqueeze(-1)
        x = torch.cat([cosine, (1 - cosine.square()).clamp(min=0).sqrt() * side], -1)
        first = torch.zeros(self.dim, dtype=alpha.dtype, device=alpha.device)
        first[0] = 1.0
        mirror = F.normalize(first - self.direction, dim=-1)
        return x - 2 * (mirror * x).sum(-1, keepdim=True) * mirror

    def translate(self, offset: Tensor) -> Belief:
        raise NotImplementedError("a belief over unit vectors cannot be moved off the sphere")

    @torch.no_grad()
    def coverage(self, value: Tensor) -> Tensor:
        """Mass of the cap around the mean direction through `value`, shape `[...]`. Computed on the CPU."""
        cosine = (self.direction * value.to(self.direction.dtype)).sum(-1).clamp(-1, 1)
        beyond = scipy.special.betainc(self.beta, self.alpha.cpu().numpy(), ((1 - cosine) / 2).cpu().numpy())
        return torch.as_tensor(beyond, dtype=cosine.dtype, device=cosine.device)


class Polar(Belief):
    r"""Belief over direction times radius, each uncertain by itself: :math:`v = r u`.

    The direction is power spherical, the radius log-normal, so that
    :math:`\log p(v) = \log p(u) + \log p(r) - (D - 1) \log r`. The split is that of VJE (arXiv 2602.05639);
    its likelihood on the direction has no normaliser on the sphere, and stands in `objective=vje`.

    Arguments:
        direction: belief over the direction.
        log_radius: mean of the radius' logarithm, shape `[...]`.
        log_radius_std: standard deviation of the radius' logarithm, shape `[...]`.
    """

    name = "polar"

    def __init__(self, direction: PowerSpherical, log_radius: Tensor, log_radius_std: Tensor):
        self.direction, self.log_radius, self.log_radius_std = direction, log_radius, log_radius_std
        super().__init__(direction.batch_shape, direction.dim)

    def _radius_moment(self, power: int) -> Tensor:
        return (power * self.log_radius + 0.5 * (power * self.log_radius_std).square()).exp().unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        return self._radius_moment(1) * self.direction.mean

    @property
    def variance(self) -> Tensor:
        of_radius = self.log_radius_std.square().expm1().unsqueeze(-1)  # relative to the squared mean
        return self._radius_moment(2) * self.direction.variance + of_radius * self.mean.square()

    @property
    def covariance_matrix(self) -> Tensor:
        of_radius = self.log_radius_std.square().expm1()[..., None, None]
        outer = self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2)
        return self._radius_moment(2).unsqueeze(-1) * self.direction.covariance_matrix + of_radius * outer

    def entropy(self) -> Tensor:
        """In closed form: those of direction and log-radius, and `D` times the mean log-radius."""
        radius = 0.5 * math.log(2 * math.pi * math.e) + self.log_radius_std.log()
        return self.direction.entropy() + radius + self.dim * self.log_radius

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        direction = self.direction.rsample(sample_shape)
        noise = torch.randn_like(direction[..., 0])
        return (self.log_radius + self.log_radius_std * noise).exp().unsqueeze(-1) * direction

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.log_radius.dtype)
        radius = (value.square().sum(-1) + SMALLEST_RADIUS**2).sqrt()
        error = (radius.log() - self.log_radius) / self.log_radius_std
        log_normal = -0.5 * (error.square() + math.log(2 * math.pi)) - self.log_radius_std.log()
        return self.direction.log_prob(value / radius.unsqueeze(-1)) + log_normal - self.dim * radius.log()


class PowerSphericalHead(nn.Module):
    """Linear head that returns a :class:`PowerSpherical`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`, at least 2.
        log_concentration_bounds: lowest and highest natural logarithm of the concentration.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        log_concentration_bounds: tuple[float, float] = LOG_CONCENTRATION_BOUNDS,
    ):
        super().__init__()
        require_dim("power_spherical", dim, low=2)
        self.dim = dim
        self.concentration = BoundedScale(log_concentration_bounds)
        self.linear = linear(features, dim + 1)
        nn.init.normal_(self.linear.bias[:dim], std=dim**-0.5)  # a direction to begin with

    def forward(self, features: Tensor) -> PowerSpherical:
        raw = self.linear(features).float()
        return PowerSpherical(
            F.normalize(raw[..., : self.dim], dim=-1), self.concentration(raw[..., self.dim])
        )


class PolarHead(nn.Module):
    """Linear head that returns a :class:`Polar`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`, at least 2.
        log_concentration_bounds: lowest and highest natural logarithm of the direction's concentration.
        log_radius_std_bounds: lowest and highest natural logarithm of the log-radius' standard deviation.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        log_concentration_bounds: tuple[float, float] = LOG_CONCENTRATION_BOUNDS,
        log_radius_std_bounds: tuple[float, float] = LOG_RADIUS_STD_BOUNDS,
    ):
        super().__init__()
        require_dim("polar", dim, low=2)
        self.direction = PowerSphericalHead(features, dim, log_concentration_bounds)
        self.scale = BoundedScale(log_radius_std_bounds)
        self.radius = linear(features, 2)

    def forward(self, features: Tensor) -> Polar:
        log_radius, raw = self.radius(features).float().unbind(-1)
        log_radius = LARGEST_LOG_RADIUS * torch.tanh(log_radius / LARGEST_LOG_RADIUS)
        return Polar(self.direction(features), log_radius, self.scale(raw))
