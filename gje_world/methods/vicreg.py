"""VICReg: views agree, dimensions vary, and vary apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder
from gje_world.objectives.statistics import distributed, moments
from gje_world.predictor import projector

TERMS = ("invariance", "variance", "covariance")


class VICReg(Method):
    """Invariance, variance and covariance (Bardes et al., 2022, eq. 6).

    Arguments:
        invariance, variance, covariance: weights of the three.
        dim: of the projection.
        projector_hidden: width of the projector's hidden layers.
        common: options of every method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        dim: int = 8192,
        projector_hidden: int = 8192,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.weights = dict(zip(TERMS, (invariance, variance, covariance), strict=True))
        self.projector = projector(encoder.dim, projector_hidden, dim, layers=3)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        a, b = self.projector(z.flatten(0, 1)).chunk(2)
        terms = dict(zip(TERMS, vicreg_terms(a, b), strict=True))
        metrics = {f"loss/{name}": term.detach() for name, term in terms.items()}
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return loss, metrics | spread(z)


def vicreg_terms(a: Tensor, b: Tensor, epsilon: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    r"""Invariance, variance and covariance terms of projections `a, b [B, D]`, three scalars.

    .. math:: \frac{1}{BD}\|a - b\|^2, \quad
        \frac{1}{2D} \sum_{x \in \{a, b\}} \sum_j \max\big(0, 1 - \sqrt{S^x_{jj} + \epsilon}\big), \quad
        \frac1D \sum_{x \in \{a, b\}} \sum_{i \ne j} (S^x_{ij})^2

    with :math:`S^x` the unbiased covariance over all ranks. The factor a half of the second is that of the
    authors' code.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        invariance = (a - b).square().mean()
        count = len(a) * (dist.get_world_size() if distributed() else 1)
        variance = covariance = a.new_zeros(())
        for view in (a, b):
            spread_of = moments(view)[1] * count / (count - 1)
            own = spread_of.diagonal()
            variance = variance + 0.5 * (1 - (own + epsilon).sqrt()).clamp(min=0).mean()
            covariance = covariance + (spread_of.square().sum() - own.square().sum()) / view.shape[-1]
        return invariance, variance, covariance
