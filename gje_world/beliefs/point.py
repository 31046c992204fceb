"""Point belief: all mass on one embedding. What a deterministic predictor believes; the ablation's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.head import linear
from gje_world.networks.mlp import simplicial


class Point(Belief):
    """Degenerate distribution at `mean`, shape `[..., D]`. It has samples but no density."""

    name = "point"

    def __init__(self, mean: Tensor):
        self._mean = mean
        super().__init__(mean.shape[:-1], mean.shape[-1])

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self._mean)

    def translate(self, offset: Tensor) -> Point:
        return Point(self._mean + offset)

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        return self._mean.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "a point belief has no density: choose belief=diagonal to train by likelihood"
        )


class PointHead(nn.Module):
    """Linear head that returns a :class:`Point`.

    Arguments:
        features: number of input features.
        dim: embedding dimension.
        simplicial: normalise the mean as the embeddings of a simplicial encoder are.
    """

    def __init__(self, features: int, dim: int, simplicial: bool = False):
        super().__init__()
        self.simplicial = simplicial
        self.linear = linear(features, dim)

    def forward(self, features: Tensor) -> Point:
        mean = self.linear(features).float()
        return Point(simplicial(mean) if self.simplicial else mean)
