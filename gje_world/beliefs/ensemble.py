"""Ensemble belief: several opinions, whose disagreement is what more data would settle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.networks.mlp import NormedLinear


class Ensemble(Belief):
    """Equal mixture of `members`, beliefs of one shape (Lakshminarayanan et al., 2017).

    Its variance is the sum of `aleatoric`, what each member holds to be noise, and `epistemic`, how far the
    members' means lie apart. Entropy and regions are Monte Carlo estimates.
    """

    def __init__(self, members: Sequence[Belief]):
        self.members = tuple(members)
        super().__init__(members[0].batch_shape, members[0].dim)

    @property
    def mean(self) -> Tensor:
        return torch.stack([member.mean for member in self.members]).mean(0)

    @property
    def aleatoric(self) -> Tensor:
        """Mean variance of the members, `[..., D]`."""
        return torch.stack([member.variance for member in self.members]).mean(0)

    @property
    def epistemic(self) -> Tensor:
        """Variance of the members' means, `[..., D]`."""
        return torch.stack([member.mean for member in self.members]).var(0, correction=0)

    @property
    def variance(self) -> Tensor:
        return self.aleatoric + self.epistemic

    @property
    def covariance_matrix(self) -> Tensor:
        means = torch.stack([member.mean for member in self.members])
        spread = means - means.mean(0)
        own = torch.stack([member.covariance_matrix for member in self.members])
        return (own + spread.unsqueeze(-1) * spread.unsqueeze(-2)).mean(0)

    def log_prob(self, value: Tensor) -> Tensor:
        own = torch.stack([member.log_prob(value) for member in self.members])
        return torch.logsumexp(own, 0) - math.log(len(self.members))

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        drawn = torch.stack([member.rsample(sample_shape) for member in self.members])
        member = torch.randint(len(self.members), drawn.shape[1:-1], device=drawn.device)
        index = member[None, ..., None].expand(1, *drawn.shape[1:])
        return drawn.gather(0, index).squeeze(0)

    def translate(self, offset: Tensor) -> Ensemble:
        return Ensemble([member.translate(offset) for member in self.members])

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """Mean over the members, each of which learns all of it, as by the mixture's it would not."""
        return torch.stack([member.learning_log_prob(value, resolution) for member in self.members]).mean(0)


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
