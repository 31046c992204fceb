"""Barlow Twins: the two views' cross-correlation is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder
from gje_world.objectives.statistics import mean_over_ranks
from gje_world.predictor import projector


class BarlowTwins(Method):
    r"""Redundancy reduction (Zbontar et al., 2021, eq. 1).

    .. math:: L = \sum_j (1 - C_{jj})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    Arguments:
        redundancy: :math:`\lambda`.
        dim: of the projection.
        projector_hidden: width of the projector's hidden layers.
        common: options of every method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        redundancy: float = 5e-3,
        dim: int = 8192,
        projector_hidden: int = 8192,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.redundancy = redundancy
        self.projector = projector(encoder.dim, projector_hidden, dim, layers=3)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        a, b = self.projector(z.flatten(0, 1)).chunk(2)
        return barlow_twins(a, b, self.redundancy), spread(z)


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """Loss, a scalar, of projections `a, b [B, D]`, standardised over the batch of all ranks."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = standardise(a.float()), standardise(b.float())
        correlation = mean_over_ranks(a.mT @ b / len(a))
        own = correlation.diagonal()
        across = correlation.square().sum() - own.square().sum()
        return (1 - own).square().sum() + redundancy * across


def standardise(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """`x [B, D]` to zero mean and unit variance over the batch of all ranks."""
    centred = x - mean_over_ranks(x.mean(0))
    return centred * (mean_over_ranks(centred.square().mean(0)) + epsilon).rsqrt()
