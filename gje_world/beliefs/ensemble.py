"""Beliefs of many: an ensemble, whose disagreement more data would settle, and a cloud of particles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.gaussian import in_full_precision
from gje_world.networks.mlp import NormedLinear


class EqualMixture(Belief):
    """Equal mixture of beliefs of one shape, told by a subclass.

    Its variance is the sum of `aleatoric`, what each member holds to be noise, and `epistemic`, how far the
    members' means lie apart. Entropy and regions are Monte Carlo estimates.
    """

    def each_density(self, value: Tensor) -> Tensor:
        """Log-density of `value [..., D]` under each member, `[M, ...]`."""
        raise NotImplementedError

    def each_draw(self, sample_shape: _size) -> tuple[Tensor, Tensor]:
        """A draw of each member, `[M, *sample_shape, *batch, D]`, and what it lies about (`Belief.draw`)."""
        raise NotImplementedError

    def each(self, property: str) -> Tensor:
        """A property of each member, `[M, *batch, ...]`."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        return self.each("mean").mean(0)

    @property
    def aleatoric(self) -> Tensor:
        """Mean variance of the members, `[..., D]`."""
        return self.each("variance").mean(0)

    @property
    def epistemic(self) -> Tensor:
        """Variance of the members' means, `[..., D]`."""
        return self.each("mean").var(0, correction=0)

    @property
    def variance(self) -> Tensor:
        return self.aleatoric + self.epistemic

    @property
    @in_full_precision
    def covariance_matrix(self) -> Tensor:
        means = self.each("mean")
        spread = (means - means.mean(0)).movedim(0, -2)  # [..., M, D]
        return self.each("covariance_matrix").mean(0) + spread.mT @ spread / len(means)

    def log_prob(self, value: Tensor) -> Tensor:
        densities = self.each_density(value)
        return torch.logsumexp(densities, 0) - math.log(len(densities))

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        return self.draw(sample_shape)[0]

    def draw(self, sample_shape: _size = EMPTY) -> tuple[Tensor, Tensor]:
        drawn, centre = self.each_draw(sample_shape)
        member = torch.randint(len(drawn), drawn.shape[1:-1], device=drawn.device)
        index = member[None, ..., None].expand(1, *drawn.shape[1:])
        return drawn.gather(0, index).squeeze(0), centre.gather(0, index).squeeze(0)


class Ensemble(EqualMixture):
    """Equal mixture of `members` (Lakshminarayanan et al., 2017)."""

    name = "ensemble"

    def __init__(self, members: Sequence[Belief]):
        self.members, self.blurs = tuple(members), members[0].blurs
        super().__init__(members[0].batch_shape, members[0].dim)

    def each_density(self, value: Tensor) -> Tensor:
        return torch.stack([member.log_prob(value) for member in self.members])

    def each_draw(self, sample_shape: _size) -> tuple[Tensor, Tensor]:
        drawn, centres = zip(*(member.draw(sample_shape) for member in self.members), strict=True)
        return torch.stack(drawn), torch.stack(centres)

    def each(self, property: str) -> Tensor:
        return torch.stack([getattr(member, property) for member in self.members])

    def translate(self, offset: Tensor) -> Ensemble:
        return Ensemble([member.translate(offset) for member in self.members])

    def rescale(self, scale: Tensor) -> Ensemble:
        return Ensemble([member.rescale(scale) for member in self.members])

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """Mean over the members, each of which learns all of it, as by the mixture's it would not."""
        return torch.stack([member.learning_log_prob(value, resolution) for member in self.members]).mean(0)

    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """Mean over the members, as of `learning_log_prob`."""
        return torch.stack([member.pairwise_log_prob(value, resolution) for member in self.members]).mean(0)

    def spread_log_prob(self, value: Tensor) -> Tensor:
        """Mean over the members, each around its own mean."""
        return torch.stack([member.spread_log_prob(value) for member in self.members]).mean(0)


class Pool(EqualMixture):
    """Equal mixture over the first batch dimension of `beliefs`: what a cloud of particles believes."""

    name = "pool"

    def __init__(self, beliefs: Belief):
        self.beliefs = beliefs
        super().__init__(beliefs.batch_shape[1:], beliefs.dim)

    def each_density(self, value: Tensor) -> Tensor:
        batch = len(self.batch_shape)
        return self.beliefs.log_prob(value.unsqueeze(-2 - batch)).movedim(-1 - batch, 0)

    def each_draw(self, sample_shape: _size) -> tuple[Tensor, Tensor]:
        drawn, centre = self.beliefs.draw(sample_shape)
        return drawn.movedim(len(sample_shape), 0), centre.movedim(len(sample_shape), 0)

    def rescale(self, scale: Tensor) -> Pool:
        return Pool(self.beliefs.rescale(scale))

    def each(self, property: str) -> Tensor:
        return getattr(self.beliefs, property)


class EnsembleHead(nn.Module):
    """Members with a hidden layer of their own, returning an :class:`Ensemble`.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        member: makes the head of a member from `features` and `dim`.
        members: how many, at least 2.
    """

    def __init__(self, features: int, dim: int, member: Callable[[int, int], nn.Module], members: int = 5):
        super().__init__()
        if members < 2:
            raise ValueError(f"members must be at least 2, got {members}")
        self.members = nn.ModuleList(
            nn.Sequential(NormedLinear(features, features), member(features, dim)) for _ in range(members)
        )

    def forward(self, features: Tensor) -> Ensemble:
        return Ensemble([member(features) for member in self.members])
