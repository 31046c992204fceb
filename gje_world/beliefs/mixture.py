"""Mixture beliefs: one of several things will happen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, SAMPLES, Belief
from gje_world.beliefs.dense import PrecisionGaussian
from gje_world.beliefs.diagonal import DiagonalGaussian
from gje_world.beliefs.gaussian import in_full_precision
from gje_world.beliefs.head import LOG_STD_BOUNDS, BoundedScale, linear
from gje_world.beliefs.low_rank import LowRankGaussian, bounded_loadings


class Mixture(Belief):
    r"""Belief :math:`\sum_k w_k N(\mu_k, \Sigma_k)`.

    Samples carry gradients to the component they came from, but none to the weights. Entropy and regions
    are Monte Carlo estimates; the entropy's draws as many from each component, with gradient to all.

    Arguments:
        log_weights: :math:`\log w`, normalised, shape `[..., K]`.
        components: Gaussian beliefs of batch shape `[..., K]`.
    """

    name = "mixture"
    blurs = True

    def __init__(
        self, log_weights: Tensor, components: DiagonalGaussian | LowRankGaussian | PrecisionGaussian
    ):
        self.log_weights, self.components = log_weights, components
        super().__init__(components.batch_shape[:-1], components.dim)

    @property
    def means(self) -> Tensor:
        """Of the components, `[..., K, D]`."""
        return self.components.mean

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(-2)

    @property
    def variance(self) -> Tensor:
        weights = self.log_weights.exp().unsqueeze(-1)
        spread = (self.means - self.mean.unsqueeze(-2)).square()
        return (weights * (self.components.variance + spread)).sum(-2)

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        weights = self.log_weights.expand(self.components.batch_shape).exp()
        spread = self.means - self.mean.unsqueeze(-2)
        total = (weights.unsqueeze(-1) * spread).mT @ spread
        for one in range(weights.shape[-1]):  # in turn: they are large
            component = self.components.pick(torch.full_like(weights[..., 0], one, dtype=torch.long))
            total = total + weights[..., one, None, None] * component.covariance_matrix
        return total

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logsumexp(self.log_weights + self.components.log_prob(value.unsqueeze(-2)), -1)

    def log_prob_at_scales(self, value: Tensor, scales: Tensor) -> Tensor:
        each = self.components.log_prob_at_scales(value.unsqueeze(-2), scales)  # [..., K, S]
        return torch.logsumexp(self.log_weights.unsqueeze(-1) + each, -2)

    def entropy(self) -> Tensor:
        count = max(1, SAMPLES // self.log_weights.shape[-1])
        drawn = self.components.rsample((count,)).movedim(-2, 0)  # [K, count, ..., D]
        surprise = -self.log_prob(drawn).mean(1).movedim(0, -1)
        return (self.log_weights.exp() * surprise).sum(-1)

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        return self.draw(sample_shape)[0]

    def draw(self, sample_shape: _size = EMPTY) -> tuple[Tensor, Tensor]:
        shape = self._extended_shape(sample_shape)[:-1]
        return self.components.pick(draw_index(self.log_weights, shape)).draw()

    def translate(self, offset: Tensor) -> Mixture:
        return Mixture(self.log_weights, self.components.translate(offset.unsqueeze(-2)))

    def rescale(self, scale: Tensor) -> Mixture:
        return Mixture(self.log_weights, self.components.rescale(scale.unsqueeze(-1)))

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """As `Belief.learning_log_prob`, its expectation estimated by one draw of the noise."""
        components, value = self._blurred(value, resolution)
        return Mixture(self.log_weights, components).log_prob(value)

    def composite_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """As `Gaussian.composite_log_prob`, of each component by its share in what happened; the weights
        learn by the joint likelihood, as spreads do."""
        components, value = self._blurred(value, resolution)
        value = value.unsqueeze(-2)
        held = components.translate(self.means.detach() - self.means)
        each = self.log_weights + held.log_prob(value.detach())
        pull = (each.detach().softmax(-1) * components.pull(value)).sum(-1)
        return each.logsumexp(-1) + (pull - pull.detach())

    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """As `Belief.pairwise_log_prob`, with one draw of the noise for each value."""
        components, value = self._blurred(value, resolution)
        log_weights = self.log_weights.expand(components.batch_shape)
        each = components.flatten().pairwise_log_prob(value).unflatten(-1, log_weights.shape[-2:])
        return torch.logsumexp(log_weights.unsqueeze(-3) + each, -1)

    def _blurred(
        self, value: Tensor, resolution: float
    ) -> tuple[DiagonalGaussian | LowRankGaussian | PrecisionGaussian, Tensor]:
        """Components and values at a resolution, the values with one draw of its noise; at 0 as they are."""
        if not resolution:
            return self.components, value
        return self.components.blur(resolution), value + resolution * torch.randn_like(value)

    def spread_log_prob(self, value: Tensor) -> Tensor:
        """As `Belief.spread_log_prob`: to the components' covariances alone, not their means or weights."""
        held = self.components.translate(self.means.detach() - self.means)
        return Mixture(self.log_weights.detach(), held).log_prob(value.detach())


def draw_index(log_weights: Tensor, shape: _size) -> Tensor:
    """Indices `[*shape]` of those weights `[..., K]`, by the Gumbel-max trick."""
    gumbel = -torch.empty_like(log_weights.expand(*shape, -1)).exponential_().log()
    return (log_weights + gumbel).argmax(-1)


class MixtureHead(nn.Module):
    r"""Mixture density head (Bishop, 1994) that returns a :class:`Mixture`.

    It starts balanced: all weights equal, and the components' means apart, so that none is left without a
    share of the data. Scales learn faster than in other heads, the wider their bounds the faster: where they
    are still wide, all components explain all data, and their means meet before they have found modes.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        components: `K`.
        rank: factors of each component's covariance; 0 for diagonal ones.
        log_std_bounds: lowest and highest natural logarithm of the components' standard deviations.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        components: int = 8,
        rank: int = 0,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
    ):
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        if not 0 <= rank <= dim:
            raise ValueError(f"rank={rank} must be from 0 to the {dim} dimensions of the belief")
        self.components, self.rank, self.dim = components, rank, dim
        self.scale = BoundedScale(log_std_bounds)
        self.linear = linear(features, components * (1 + (2 + rank) * dim))
        bias = self.linear.bias[components:].view(components, 2 + rank, dim)
        # not further in many dimensions: what is far off in those without structure is left with nothing
        nn.init.normal_(bias[:, 0], std=dim**-0.5)
        nn.init.normal_(bias[:, 2:], std=0.1)

    def forward(self, features: Tensor) -> Mixture:
        raw = self.linear(features).float()
        logits, parts = raw[..., : self.components], raw[..., self.components :]
        parts = parts.unflatten(-1, (self.components, 2 + self.rank, self.dim))
        mean, scale = parts[..., 0, :], self.scale(self.scale.reach / 2 * parts[..., 1, :])
        log_weights = F.log_softmax(logits, -1)
        if not self.rank:
            return Mixture(log_weights, DiagonalGaussian(mean, scale))
        return Mixture(log_weights, LowRankGaussian(mean, scale, bounded_loadings(parts[..., 2:, :].mT)))
