"""Low-rank plus diagonal Gaussian belief: a few directions in which dimensions err together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY
from gje_world.beliefs.gaussian import (
    LOG_2PI,
    Gaussian,
    cholesky,
    each_times,
    in_full_precision,
    squared_distances,
    times,
)
from gje_world.beliefs.head import LOG_STD_BOUNDS, BoundedScale, linear

LARGEST_LOADING = 30.0  # of a factor, in units of the dimension's own std: correlations reach 0.999
LARGEST_GRAM = 512 * 8 * LARGEST_LOADING**2  # trace of V^T V that float32 factors I + V^T V at


class _Energy(torch.autograd.Function):
    r"""Half of :math:`e^\top (I + V V^\top)^{-1} e + \log\det(I + V^\top V)`, its gradient in closed form.

    With :math:`C = I + V^\top V`, :math:`q = C^{-1} V^\top e` and :math:`u = e - V q`, the quadratic form is
    :math:`|u|^2 + |q|^2`, where nothing cancels, and the gradients are :math:`u` and
    :math:`V C^{-1} - u q^\top`: no pass back through a Cholesky factor.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(error: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tril, inverse, shared, unexplained = _Energy.solve(error, factor)
        square = unexplained.square().sum(-1) + shared.square().sum(-1)
        energy = 0.5 * square + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return energy, inverse, shared, unexplained

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def solve(error: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cholesky factor of `C`, its inverse, `q` and `u`."""
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        tril = cholesky(eye + factor.mT @ factor)
        inverse = torch.cholesky_inverse(tril)
        shared = times(times(error, factor), inverse)
        return tril, inverse, shared, error - times(shared, factor.mT)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        error, factor, inverse, shared, unexplained = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for: this pass must have a graph
            inverse, shared, unexplained = _Energy.solve(error, factor)[1:]
        to_error = grad.unsqueeze(-1) * unexplained
        to_factor = factor @ (grad[..., None, None] * inverse)
        return to_error, to_factor - to_error.unsqueeze(-1) * shared.unsqueeze(-2)


class LowRankGaussian(Gaussian):
    r"""Belief :math:`N(\mu, S (I + V V^\top) S)` with :math:`S = \mathrm{diag}(\sigma)`.

    No :math:`D \times D` matrix is made: a sample costs :math:`O(Dr)`, a log-density :math:`O(Dr^2)` by the
    matrix inversion and determinant lemmas (Woodbury, 1950). The factors are in units of :math:`\sigma`, so
    that the :math:`r \times r` matrix :math:`I + V^\top V` does not depend on the scales; a head bounds them
    (`bounded_loadings`), so that float32 factors it however they are aligned.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        std: :math:`\sigma > 0`, shape `[..., D]`.
        factor: :math:`V`, shape `[..., D, r]`.
    """

    name = "low_rank"

    def __init__(self, mean: Tensor, std: Tensor, factor: Tensor):
        super().__init__(mean)
        self.std, self.factor = std, factor
        self._solved: tuple[Tensor, Tensor] | None = None  # without a graph, which serves one backward pass

    @in_full_precision
    def _capacitance(self) -> tuple[Tensor, Tensor]:
        r"""Inverse Cholesky factor of :math:`I + V^\top V`, `[..., r, r]`, and half its log-determinant."""
        if self._solved is not None and not torch.is_grad_enabled():
            return self._solved
        eye = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype, device=self.factor.device)
        tril = cholesky(eye + self.factor.mT @ self.factor)
        inverse = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
        solved = inverse, tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if not torch.is_grad_enabled():
            self._solved = solved
        return solved

    @property
    def variance(self) -> Tensor:
        return self.std.square() * (1 + self.factor.square().sum(-1))

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        scaled = self.std.unsqueeze(-1) * self.factor
        return self.std.square().diag_embed() + scaled @ scaled.mT

    @property
    def half_log_det(self) -> Tensor:
        return self.std.log().sum(-1) + self._capacitance()[1]

    @property
    @in_full_precision
    def precision_trace(self) -> Tensor:
        inverse, _ = self._capacitance()
        explained = inverse @ (self.factor / self.std.unsqueeze(-1)).mT
        return self.std.square().reciprocal().sum(-1) - explained.square().sum((-2, -1))

    @in_full_precision
    def mahalanobis(self, value: Tensor) -> Tensor:
        error = (value.to(self.mean.dtype) - self.mean) / self.std
        inverse, _ = self._capacitance()
        shared = times(times(times(error, self.factor), inverse.mT), inverse)
        unexplained = error - times(shared, self.factor.mT)
        return unexplained.square().sum(-1) + shared.square().sum(-1)

    @in_full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        if value.ndim > self.mean.ndim:
            return super().log_prob(value)
        error = (value.to(self.mean.dtype) - self.mean) / self.std
        energy, *_ = _Energy.apply(error, self.factor.expand(*error.shape, -1))
        return -energy - self.std.log().sum(-1) - 0.5 * self.dim * LOG_2PI

    @in_full_precision
    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        blurred = self.blur(resolution) if resolution else self
        inverse, half_log_det = blurred._capacitance()
        shared = (blurred.factor / blurred.std.unsqueeze(-1)) @ inverse.mT  # [..., N, D, r]
        along = each_times(value, self.mean, shared)  # [..., M, N, r]
        distances = squared_distances(value, self.mean, blurred.std.square()) - along.square().sum(-1)
        trace = blurred.std.square().reciprocal().sum(-1) - shared.square().sum((-2, -1))
        own = half_log_det + blurred.std.log().sum(-1) + 0.5 * resolution**2 * trace
        return -0.5 * (distances + self.dim * LOG_2PI) - own.expand(self.batch_shape).unsqueeze(-2)

    @in_full_precision
    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        shape, rank = self._extended_shape(sample_shape), self.factor.shape[-1]
        size = (*shape[:-1], self.dim + rank)
        own, shared = torch.randn(size, dtype=self.mean.dtype, device=self.mean.device).split(
            (self.dim, rank), -1
        )
        return self.mean + self.std * (own + (self.factor @ shared.unsqueeze(-1)).squeeze(-1))

    def blur(self, resolution: float) -> LowRankGaussian:
        std = (self.std.square() + resolution**2).sqrt()
        return LowRankGaussian(self.mean, std, self.factor * (self.std / std).unsqueeze(-1))

    def pick(self, index: Tensor) -> LowRankGaussian:
        """Of a batch `[..., K]` of beliefs the one at `index [...]` of each row."""
        lead = index.shape
        index = index[..., None, None]
        rows = index.expand(*lead, 1, self.dim)
        mean, std = (
            part.expand(*lead, *part.shape[-2:]).gather(-2, rows).squeeze(-2)
            for part in (self.mean, self.std.expand_as(self.mean))
        )
        factor = self.factor.expand(*lead, *self.factor.shape[-3:])
        blocks = index.unsqueeze(-1).expand(*lead, 1, *self.factor.shape[-2:])
        return LowRankGaussian(mean, std, factor.gather(-3, blocks).squeeze(-3))

    def flatten(self) -> LowRankGaussian:
        """A batch `[..., N, K]` of beliefs as one of `[..., N * K]`."""
        std, factor = self.std.expand_as(self.mean), self.factor.expand(*self.mean.shape, -1)
        return LowRankGaussian(self.mean.flatten(-3, -2), std.flatten(-3, -2), factor.flatten(-4, -3))

    def translate(self, offset: Tensor) -> LowRankGaussian:
        return LowRankGaussian(self.mean + offset, self.std, self.factor)

    def rescale(self, scale: Tensor) -> LowRankGaussian:
        std = self.std.expand_as(self.mean) * scale.unsqueeze(-1)
        return LowRankGaussian(self.mean.expand_as(std), std, self.factor)


def bounded_loadings(raw: Tensor) -> Tensor:
    """Factors `[..., D, r]` from raw numbers: none above 30, and less where there are many."""
    largest = min(LARGEST_LOADING, math.sqrt(LARGEST_GRAM / (raw.shape[-2] * raw.shape[-1])))
    return largest * torch.tanh(raw / largest)


class LowRankHead(nn.Module):
    """Linear head that returns a :class:`LowRankGaussian`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        rank: number of factors `r`, at most `D`; None for 8, or `D` where that is less.
        log_std_bounds: lowest and highest natural logarithm of each dimension's own standard deviation.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        rank: int | None = None,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
    ):
        super().__init__()
        rank = min(8, dim) if rank is None else rank
        if not 1 <= rank <= dim:
            raise ValueError(f"rank={rank} must be from 1 to the {dim} dimensions of the belief")
        self.dim, self.rank = dim, rank
        self.scale = BoundedScale(log_std_bounds)
        self.linear = linear(features, (2 + rank) * dim)
        # factors that are all zero would have no gradient
        nn.init.normal_(self.linear.bias[2 * dim :], std=0.1)

    def forward(self, features: Tensor) -> LowRankGaussian:
        mean, raw, factor = (
            self.linear(features).float().split((self.dim, self.dim, self.rank * self.dim), -1)
        )
        factor = bounded_loadings(factor.unflatten(-1, (self.dim, self.rank)))
        return LowRankGaussian(mean, self.scale(raw), factor)
