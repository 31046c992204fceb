"""Multivariate Student-t belief: heavy tails, so that a rare large error is no catastrophe."""

from __future__ import annotations

import math

import scipy.special
import torch
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.gamma import digamma_difference, log_gamma_ratio
from gje_world.beliefs.gaussian import in_full_precision, squared_distances
from gje_world.beliefs.head import LOG_STD_BOUNDS, BoundedScale, linear
from gje_world.networks.mlp import NormedLinear

LOWEST_DF, HIGHEST_DF = 2.1, 100.0  # learnt: below 2 there is no variance, above 100 nothing but a Gaussian
LARGEST_GIVEN_DF = 10_000
SPREAD_HIDDEN = 128  # width of the layer that scales and degrees of freedom are told from


class StudentT(Belief):
    r"""Belief :math:`t_\nu(\mu, \mathrm{diag}(s^2))` (Kotz and Nadarajah, 2004, eq. 1.1).

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        scale: :math:`s > 0`, shape `[..., D]`. The variance is :math:`s^2 \nu / (\nu - 2)`.
        df: degrees of freedom :math:`\nu > 2`, shape `[...]`.
    """

    name = "student_t"
    blurs = True

    def __init__(self, mean: Tensor, scale: Tensor, df: Tensor):
        self._mean, self.scale, self.df = mean, scale, df
        super().__init__(mean.shape[:-1], mean.shape[-1])

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (self.df / (self.df - 2)).unsqueeze(-1)

    @property
    def covariance_matrix(self) -> Tensor:
        return self.variance.diag_embed()

    def _distance(self, value: Tensor) -> Tensor:
        """Squared distance `[...]` in units of the scale."""
        return ((value.to(self.mean.dtype) - self.mean) / self.scale).square().sum(-1)

    def _log_normaliser(self) -> Tensor:
        constant = log_gamma_ratio(self.df / 2, self.dim / 2) - 0.5 * self.dim * (self.df * math.pi).log()
        return constant - self.scale.log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        tail = 0.5 * (self.df + self.dim) * torch.log1p(self._distance(value) / self.df)
        return self._log_normaliser() - tail

    def entropy(self) -> Tensor:
        """In closed form (Kotz and Nadarajah, 2004, section 1.10)."""
        whole = (self.df + self.dim) / 2
        return whole * digamma_difference(self.df / 2, self.dim / 2) - self._log_normaliser()

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)
        half = (self.df / 2).expand(shape[:-1])
        mixing = torch.distributions.Gamma(half, half, validate_args=False).rsample()
        return self.mean + self.scale * noise * mixing.rsqrt().unsqueeze(-1)

    def translate(self, offset: Tensor) -> StudentT:
        return StudentT(self.mean + offset, self.scale, self.df)

    def rescale(self, scale: Tensor) -> StudentT:
        wider = self.scale.expand_as(self.mean) * scale.unsqueeze(-1)
        return StudentT(self.mean.expand_as(wider), wider, self.df)

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        r"""At a finite resolution under a Student-t near the blurred belief, which has no closed form.

        With :math:`r` the belief's share of the blurred variance, :math:`\nu / r^2` degrees of freedom: noise
        of one size makes the logarithm of the scale vary by :math:`r` times as much as it did.
        """
        if not resolution:
            return self.log_prob(value)
        return self._blurred(resolution).log_prob(value + resolution * torch.randn_like(value))

    @in_full_precision
    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """As `Belief.pairwise_log_prob`, with one draw of the noise for each value."""
        blurred = self
        if resolution:
            blurred, value = self._blurred(resolution), value + resolution * torch.randn_like(value)
        distance = squared_distances(value, blurred.mean, blurred.scale.square())
        normaliser, df = (
            one.expand(self.batch_shape).unsqueeze(-2) for one in (blurred._log_normaliser(), blurred.df)
        )
        return normaliser - 0.5 * (df + self.dim) * torch.log1p(distance / df)

    def _blurred(self, resolution: float) -> StudentT:
        variance = self.variance + resolution**2
        share = (self.variance / variance).mean(-1)
        df = (self.df / share.square()).clamp(max=LARGEST_GIVEN_DF)
        return StudentT(self.mean, (variance * (1 - 2 / df).unsqueeze(-1)).sqrt(), df)

    @torch.no_grad()
    def coverage(self, value: Tensor) -> Tensor:
        r"""Mass of the ellipsoid through `value`, shape `[...]`: a regularised incomplete beta function.

        The squared distance over :math:`D` follows Fisher's :math:`F_{D,\nu}`. Computed on the CPU.
        """
        distance = self._distance(value)
        share = (distance / (distance + self.df)).cpu()
        mass = scipy.special.betainc(self.dim / 2, (self.df / 2).cpu().numpy(), share.numpy())
        return torch.as_tensor(mass, dtype=distance.dtype, device=distance.device)


class StudentTHead(nn.Module):
    r"""Head that returns a :class:`StudentT`: the mean is linear, the spread has a hidden layer of its own.

    Features learnt for the mean need not be linear in the logarithm of its error. Where errors differ by
    regimes, as those of observations that were augmented and that were not, one linear map of such features
    is right on the mixture and wrong in each.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        df: degrees of freedom :math:`2 < \nu \le 10^4` of all inputs; None to learn it from each,
            between 2.1 and 100.
        log_std_bounds: lowest and highest natural logarithm of the scales.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        df: float | None = None,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
    ):
        super().__init__()
        if df is not None and not 2 < df <= LARGEST_GIVEN_DF:
            raise ValueError(
                f"df must be above 2, where the variance is finite, and at most {LARGEST_GIVEN_DF:,}, "
                f"where a Gaussian is the same, got {df}"
            )
        self.dim, self.df = dim, df
        self.scale = BoundedScale(log_std_bounds)
        self.df_between = BoundedScale((math.log(LOWEST_DF), math.log(HIGHEST_DF)))
        self.mean = linear(features, dim)
        self.spread = nn.Sequential(
            NormedLinear(features, SPREAD_HIDDEN), linear(SPREAD_HIDDEN, dim + (df is None))
        )

    def forward(self, features: Tensor) -> StudentT:
        mean, raw = self.mean(features).float(), self.spread(features).float()
        scale = self.scale(raw[..., : self.dim])
        if self.df is None:
            return StudentT(mean, scale, self.df_between(raw[..., -1]))
        return StudentT(mean, scale, torch.full_like(mean[..., 0], self.df))
