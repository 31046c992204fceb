"""Gaussian beliefs with a full covariance: by the Cholesky factor of the precision, or of the covariance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gje_world.beliefs.gaussian import Gaussian, cholesky, in_full_precision, times
from gje_world.beliefs.head import LARGEST_DIM, LOG_STD_BOUNDS, BoundedScale, linear, require_dim


def solve(vectors: Tensor, triangle: Tensor, upper: bool) -> Tensor:
    """`vectors [*samples, *batch, D]` times the inverse of `triangle [*batch, D, D]`, not copied for each."""
    samples = max(0, vectors.ndim - triangle.ndim + 1)
    shape = torch.broadcast_shapes(vectors.shape, triangle.shape[:-1])
    flat = vectors.expand(shape).reshape(math.prod(shape[:samples]), *shape[samples:])
    columns = flat.movedim(0, -1)  # [*batch, D, S]
    solved = torch.linalg.solve_triangular(triangle, columns, upper=upper)
    return solved.movedim(-1, 0).reshape(shape)


class PrecisionGaussian(Gaussian):
    r"""Belief :math:`N(\mu, (L L^\top)^{-1})`: the log-density needs no solve, a sample needs one.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        precision_tril: :math:`L`, lower triangular with positive diagonal, shape `[..., D, D]`.
    """

    name = "full"

    def __init__(self, mean: Tensor, precision_tril: Tensor):
        super().__init__(mean)
        self.precision_tril = precision_tril

    def _inverse(self) -> Tensor:
        tril = self.precision_tril
        eye = torch.eye(self.dim, dtype=tril.dtype, device=tril.device)
        return torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)

    @property
    def variance(self) -> Tensor:
        return self._inverse().square().sum(-2)

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        inverse = self._inverse()
        return inverse.mT @ inverse

    @property
    def half_log_det(self) -> Tensor:
        return -self.precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def precision_trace(self) -> Tensor:
        return self.precision_tril.square().sum((-2, -1))

    def whiten(self, error: Tensor) -> Tensor:
        return times(error, self.precision_tril)

    def colour(self, noise: Tensor) -> Tensor:
        return solve(noise, self.precision_tril.mT, upper=True)

    @in_full_precision
    def blur(self, resolution: float) -> PrecisionGaussian:
        r"""The belief :math:`N(\mu, \Sigma + \tau^2 I)`, with one Cholesky factor and one solve.

        With :math:`I + \tau^2 L^\top L = K^\top K`, :math:`K` lower, its precision is that of the factor
        :math:`L K^{-1}`, lower again. The matrix factored has no eigenvalue below 1, and what rounding may
        take from one of its large ones is added.
        """
        tril = self.precision_tril
        gram = resolution**2 * tril.mT @ tril
        # a factor that is lower on the right: that of the matrix turned upside down, turned back
        factor = cholesky(gram.flip(-2, -1), ridge=1.0).flip(-2, -1).mT
        return PrecisionGaussian(
            self.mean, torch.linalg.solve_triangular(factor, tril, upper=False, left=False)
        )

    def pick(self, index: Tensor) -> PrecisionGaussian:
        """Of a batch `[..., K]` of beliefs the one at `index [...]` of each row."""
        lead, dim = index.shape, self.dim
        index = index[..., None, None]
        mean = self.mean.expand(*lead, -1, -1).gather(-2, index.expand(*lead, 1, dim)).squeeze(-2)
        tril = self.precision_tril.expand(*lead, -1, -1, -1)
        blocks = index.unsqueeze(-1).expand(*lead, 1, dim, dim)
        return PrecisionGaussian(mean, tril.gather(-3, blocks).squeeze(-3))

    def flatten(self) -> PrecisionGaussian:
        """A batch `[..., N, K]` of beliefs as one of `[..., N * K]`."""
        tril = self.precision_tril.expand(*self.mean.shape, -1)
        return PrecisionGaussian(self.mean.flatten(-3, -2), tril.flatten(-4, -3))

    def translate(self, offset: Tensor) -> PrecisionGaussian:
        return PrecisionGaussian(self.mean + offset, self.precision_tril)

    def rescale(self, scale: Tensor) -> PrecisionGaussian:
        tril = self.precision_tril / scale[..., None, None]
        return PrecisionGaussian(self.mean.expand(tril.shape[:-1]), tril)


class CovarianceGaussian(Gaussian):
    r"""Belief :math:`N(\mu, L L^\top)`: a sample needs no solve, the log-density needs one.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        scale_tril: :math:`L`, lower triangular with positive diagonal, shape `[..., D, D]`.
    """

    name = "full_covariance"

    def __init__(self, mean: Tensor, scale_tril: Tensor):
        super().__init__(mean)
        self.scale_tril = scale_tril

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @property
    def half_log_det(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def precision_trace(self) -> Tensor:
        eye = torch.eye(self.dim, dtype=self.scale_tril.dtype, device=self.scale_tril.device)
        inverse = torch.linalg.solve_triangular(self.scale_tril, eye.expand_as(self.scale_tril), upper=False)
        return inverse.square().sum((-2, -1))

    def whiten(self, error: Tensor) -> Tensor:
        return solve(error, self.scale_tril, upper=False)

    def colour(self, noise: Tensor) -> Tensor:
        return times(noise, self.scale_tril.mT)

    @in_full_precision
    def blur(self, resolution: float) -> CovarianceGaussian:
        eye = torch.eye(self.dim, dtype=self.scale_tril.dtype, device=self.scale_tril.device)
        covariance = self.covariance_matrix + resolution**2 * eye
        return CovarianceGaussian(self.mean, cholesky(covariance))

    def translate(self, offset: Tensor) -> CovarianceGaussian:
        return CovarianceGaussian(self.mean + offset, self.scale_tril)

    def rescale(self, scale: Tensor) -> CovarianceGaussian:
        tril = self.scale_tril * scale[..., None, None]
        return CovarianceGaussian(self.mean.expand(tril.shape[:-1]), tril)


class _DenseHead(nn.Module):
    r"""Linear head to a mean and a lower triangle: scales :math:`\sigma` and a unit triangle between them.

    Entries of the triangle are :math:`D^{-1/2}` of what the linear map tells: those of its inverse would else
    grow with :math:`D` without bound.
    """

    name: str

    def __init__(self, features: int, dim: int, log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS):
        super().__init__()
        require_dim(self.name, dim, high=LARGEST_DIM, instead="low_rank has no such limit")
        self.dim = dim
        self.scale = BoundedScale(log_std_bounds)
        self.linear = linear(features, 2 * dim + dim * (dim - 1) // 2)
        self.register_buffer("below", torch.tril_indices(dim, dim, -1), persistent=False)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `[..., D]`, scales `[..., D]`, and unit lower triangle `[..., D, D]`."""
        mean, raw, entries = (
            self.linear(features).float().split((self.dim, self.dim, self.dim * (self.dim - 1) // 2), -1)
        )
        unit = torch.ones_like(raw).diag_embed()
        rows, columns = self.below  # type: ignore[misc]
        unit[..., rows, columns] = self.dim**-0.5 * entries
        return mean, self.scale(raw), unit


class PrecisionHead(_DenseHead):
    r"""Linear head that returns a :class:`PrecisionGaussian` with :math:`L = \mathrm{diag}(\sigma)^{-1} U`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`, at most 1024.
        log_std_bounds: lowest and highest natural logarithm of :math:`\sigma`.
    """

    name = "full"

    def forward(self, features: Tensor) -> PrecisionGaussian:
        mean, scale, unit = self.parts(features)
        return PrecisionGaussian(mean, unit / scale.unsqueeze(-1))


class CovarianceHead(_DenseHead):
    r"""Linear head that returns a :class:`CovarianceGaussian` with :math:`L = \mathrm{diag}(\sigma) U`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`, at most 1024.
        log_std_bounds: lowest and highest natural logarithm of :math:`\sigma`.
    """

    name = "full_covariance"

    def forward(self, features: Tensor) -> CovarianceGaussian:
        mean, scale, unit = self.parts(features)
        return CovarianceGaussian(mean, unit * scale.unsqueeze(-1))
