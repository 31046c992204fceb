"""Diagonal Gaussian belief: each embedding dimension has its own mean and standard deviation."""

from __future__ import annotations

from torch import Tensor, nn

from gje_world.beliefs.gaussian import LOG_2PI, Gaussian, in_full_precision, squared_distances
from gje_world.beliefs.head import LOG_STD_BOUNDS, BoundedScale, linear

SCALE_FEATURES = 32  # that the standard deviations of a large embedding are made of


class DiagonalGaussian(Gaussian):
    r"""Belief :math:`N(\mu, \mathrm{diag}(\sigma^2))` over embeddings.

    Arguments:
        mean: :math:`\mu`, shape `[..., D]`.
        std: :math:`\sigma > 0`, shape `[..., D]`.
    """

    name = "diagonal"

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__(mean)
        self.std = std

    @property
    def stddev(self) -> Tensor:
        return self.std

    @property
    def variance(self) -> Tensor:
        return self.std.square()

    @property
    def covariance_matrix(self) -> Tensor:
        return self.variance.diag_embed()

    @property
    def half_log_det(self) -> Tensor:
        return self.std.log().sum(-1)

    @property
    def precision_trace(self) -> Tensor:
        return self.variance.reciprocal().sum(-1)

    def whiten(self, error: Tensor) -> Tensor:
        return error / self.std

    def colour(self, noise: Tensor) -> Tensor:
        return noise * self.std

    def blur(self, resolution: float) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, (self.variance + resolution**2).sqrt())

    def pick(self, index: Tensor) -> DiagonalGaussian:
        """Of a batch `[..., K]` of beliefs the one at `index [...]` of each row."""
        index = index[..., None, None].expand(*index.shape, 1, self.dim)
        mean, std = (
            part.expand(*index.shape[:-2], *part.shape[-2:])
            for part in (self.mean, self.std.expand_as(self.mean))
        )
        return DiagonalGaussian(mean.gather(-2, index).squeeze(-2), std.gather(-2, index).squeeze(-2))

    def flatten(self) -> DiagonalGaussian:
        """A batch `[..., N, K]` of beliefs as one of `[..., N * K]`."""
        return DiagonalGaussian(self.mean.flatten(-3, -2), self.std.expand_as(self.mean).flatten(-3, -2))

    def translate(self, offset: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean + offset, self.std)

    def rescale(self, scale: Tensor) -> DiagonalGaussian:
        std = self.std.expand_as(self.mean) * scale.unsqueeze(-1)
        return DiagonalGaussian(self.mean.expand_as(std), std)

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        noise = resolution**2
        variance = self.variance + noise
        surprise = ((value - self.mean).square() + noise) / variance + variance.log()
        return -0.5 * (surprise.sum(-1) + self.dim * LOG_2PI)

    @in_full_precision
    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        variance = self.variance + resolution**2
        own = (resolution**2 / variance + variance.log()).sum(-1) + self.dim * LOG_2PI
        distances = squared_distances(value, self.mean, variance)
        return -0.5 * (distances + own.expand(self.batch_shape).unsqueeze(-2))


class DiagonalHead(nn.Module):
    """Linear head that returns a :class:`DiagonalGaussian`.

    In an embedding of more than 64 dimensions the log standard deviations are a linear map of 32 numbers, so
    that a belief costs little more than a point: less makes a future uncertain than makes it what it is.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        log_std_bounds: lowest and highest natural logarithm of the standard deviations.
    """

    def __init__(self, features: int, dim: int, log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS):
        super().__init__()
        self.scale = BoundedScale(log_std_bounds)
        large = dim > 2 * SCALE_FEATURES
        self.parts = (dim, SCALE_FEATURES if large else dim)
        self.linear = linear(features, sum(self.parts))
        self.widen = linear(SCALE_FEATURES, dim) if large else nn.Identity()

    def forward(self, features: Tensor) -> DiagonalGaussian:
        mean, raw = self.linear(features).split(self.parts, dim=-1)
        return DiagonalGaussian(mean.float(), self.scale(self.widen(raw).float()))
