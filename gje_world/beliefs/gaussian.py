"""What every Gaussian belief has in common, however it writes its covariance."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief

LOG_2PI = math.log(2 * math.pi)
Method = TypeVar("Method", bound=Callable[..., Any])


def in_full_precision(method: Method) -> Method:
    """A belief's `method`, its products not in the lower precision of an autocast region it is called in."""

    @functools.wraps(method)
    def precise(self: Belief, *arguments: Any, **options: Any) -> Any:
        with torch.autocast(self.mean.device.type, enabled=False):
            return method(self, *arguments, **options)

    return precise  # type: ignore[return-value]


def times(vectors: Tensor, matrix: Tensor) -> Tensor:
    """`vectors [*samples, *batch, D]` times `matrix [*batch, D, R]`, not copied for each of the samples."""
    samples = vectors.ndim - matrix.ndim + 1
    if samples <= 0:
        return (vectors.unsqueeze(-2) @ matrix).squeeze(-2)
    rows = vectors.flatten(0, samples - 1).movedim(0, -2)
    return (rows @ matrix).movedim(-2, 0).unflatten(0, vectors.shape[:samples])


def centred(value: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """`value [..., M, D]` and `mean [..., N, D]` less the means' middle: far from 0 products lose digits."""
    centre = mean.detach().mean(-2, keepdim=True)
    return value.to(mean.dtype) - centre, mean - centre


def each_times(value: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Each `value [..., M, D]` less each `mean [..., N, D]`, times that one's `matrix [..., N, D, R]`.

    Shape `[..., M, N, R]`, by one product of matrices, which holds no `[..., M, N, D]`.
    """
    value, mean = centred(value, mean)
    matrix = matrix.expand(*mean.shape, -1)
    product = (value @ matrix.movedim(-2, -3).flatten(-2)).unflatten(-1, (mean.shape[-2], -1))
    return product - times(mean, matrix).unsqueeze(-3)


def squared_distances(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Of each `value [..., M, D]` from each `mean [..., N, D]`, in units of its `variance`: `[..., M, N]`.

    By products of matrices, which hold no `[..., M, N, D]`. Where means lie many deviations apart, fewer
    digits are right than of each difference alone: in float32 at 150 an error of 0.01 per dimension.
    """
    value, mean = centred(value, mean)
    precision = variance.reciprocal().expand_as(mean)
    crossed = value.square() @ precision.mT - 2 * value @ (mean * precision).mT
    return (crossed + (mean.square() * precision).sum(-1).unsqueeze(-2)).clamp(min=0)


def lifted(matrix: Tensor, ridge: float) -> Tensor:
    """`matrix [..., D, D]` plus `ridge` times I, or what rounding may make of an eigenvalue that is 0."""
    rounding = 4 * torch.finfo(matrix.dtype).eps * matrix.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    return matrix + rounding.clamp(min=ridge).unsqueeze(-1).expand(matrix.shape[:-1]).diag_embed()


def cholesky(matrix: Tensor, ridge: float | None = None) -> Tensor:
    """Lower factor `[..., D, D]` of a symmetric `matrix`, `lifted` if asked; NaN where it has none.

    An error would have a GPU waited for; what is not a number is found where losses are looked at.
    """
    if ridge is not None:
        matrix = lifted(matrix, ridge)
    factor, failed = torch.linalg.cholesky_ex(matrix, check_errors=False)
    return factor.masked_fill((failed != 0)[..., None, None], math.nan)


class Gaussian(Belief):
    r"""Belief :math:`N(\mu, \Sigma)`; a subclass says how :math:`\Sigma` acts.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
    """

    blurs = True

    def __init__(self, mean: Tensor):
        self._mean = mean
        super().__init__(mean.shape[:-1], mean.shape[-1])

    # ---- what a subclass tells ----

    @property
    def half_log_det(self) -> Tensor:
        r""":math:`\frac12 \log\det\Sigma`, shape `[...]`."""
        raise NotImplementedError

    def whiten(self, error: Tensor) -> Tensor:
        r"""`error [..., D]` in coordinates whose squared length is :math:`e^\top \Sigma^{-1} e`."""
        raise NotImplementedError

    def colour(self, noise: Tensor) -> Tensor:
        r"""Standard normal `noise [..., D]` turned into noise of covariance :math:`\Sigma`."""
        raise NotImplementedError

    def blur(self, resolution: float) -> Gaussian:
        r"""The belief :math:`N(\mu, \Sigma + \tau^2 I)`."""
        raise NotImplementedError

    @property
    def precision_trace(self) -> Tensor:
        r""":math:`\mathrm{tr}\,\Sigma^{-1}`, shape `[...]`."""
        raise NotImplementedError

    # ---- what follows ----

    @property
    def mean(self) -> Tensor:
        return self._mean

    @in_full_precision
    def mahalanobis(self, value: Tensor) -> Tensor:
        r"""Squared Mahalanobis distance :math:`(v - \mu)^\top \Sigma^{-1} (v - \mu)`, shape `[...]`."""
        return self.whiten(value.to(self.mean.dtype) - self.mean).square().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * (self.mahalanobis(value) + self.dim * LOG_2PI) - self.half_log_det

    def log_prob_at_scales(self, value: Tensor, scales: Tensor) -> Tensor:
        distances = self.mahalanobis(value).unsqueeze(-1) / scales.square()
        log_volume = self.half_log_det.unsqueeze(-1) + self.dim * scales.log()
        return -0.5 * (distances + self.dim * LOG_2PI) - log_volume

    def entropy(self) -> Tensor:
        return 0.5 * self.dim * (1 + LOG_2PI) + self.half_log_det

    @in_full_precision
    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.mean + self.colour(torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device))

    def coverage(self, value: Tensor) -> Tensor:
        r"""Probability mass of the smallest region that holds `value`, shape `[...]`, in [0, 1].

        The region is the ellipsoid through `value`; its mass is the :math:`\chi^2_D` distribution function
        at the squared Mahalanobis distance.
        """
        distance = self.mahalanobis(value)
        return torch.special.gammainc(torch.full_like(distance, self.dim / 2), distance / 2)

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        if not resolution:
            return self.log_prob(value)
        blurred = self.blur(resolution)
        return blurred.log_prob(value) - 0.5 * resolution**2 * blurred.precision_trace

    def composite_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        r"""`learning_log_prob`, with the gradient to the mean that each dimension on its own would give it.

        That of :math:`\sum_j \log N(v_j; \mu_j, \lfloor\Sigma_{jj} + \tau^2\rfloor)`, the likelihood of the
        dimensions as if they were independent (a composite likelihood: Lindsay, 1988; Varin et al., 2011),
        with :math:`\lfloor\cdot\rfloor` held fixed. The spread learns by the joint likelihood.

        Under that the mean learns by :math:`\Sigma^{-1}(v - \mu)`, which is next to nothing along directions
        that the covariance is wide in: what a belief has once taken for noise, it hardly learns to predict.
        """
        held = self.translate(self.mean.detach() - self.mean)
        pull = self.pull(value, resolution)
        return held.learning_log_prob(value.detach(), resolution) + (pull - pull.detach())

    def pull(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        r"""Minus half the squared error of the mean, each dimension in units of its own variance held fixed,
        `[...]`: the part of a composite likelihood that the mean learns by."""
        with torch.no_grad():
            variance = self.variance + resolution**2
        return -0.5 * ((value - self.mean).square() / variance).sum(-1)
