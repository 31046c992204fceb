"""Gaussian Mixture Joint Embeddings: learnt prototypes of pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gje_world.beliefs import Belief
from gje_world.beliefs.gaussian import LOG_2PI
from gje_world.beliefs.head import BoundedScale
from gje_world.objectives.coupled import Coupled
from gje_world.objectives.objective import Objective, negative_log_likelihood, require

LOG_SCALE_BOUNDS = (-4.0, 4.0)  # natural logarithm of a prototype's scales, in units of the embedding


class PrototypeGMJE(Coupled):
    r"""Likelihood of the target under a mixture of Gaussians over pairs (GMJE, after arXiv 2603.26799).

    .. math:: [z_c; z_t] \sim \sum_k \pi_k N(\mu_k, \Sigma_k), \qquad
        L = -\frac1D \log p(z_t \mid z_c) = -\frac1D \big( \log p(z_c, z_t) - \log p(z_c) \big)

    The prototypes :math:`\mu_k` are parameters, learnt by the same loss, as are the weights and the inverse
    Cholesky factors :math:`A_k`, :math:`\Sigma_k^{-1} = A_k^\top A_k`. They are lower triangular, context
    first, so the first half of :math:`A_k (z - \mu_k)` tells the density of the context and the second that
    of the target given it: no solve, and nothing is inverted.

    Arguments:
        prototypes: how many, `K`.
        common: options of every coupled objective.
    """

    name = "gmje"

    def __init__(self, dim: int, *, prototypes: int = 8, **common: Any):
        super().__init__(dim, **common)
        require(prototypes >= 1, "prototypes", prototypes, "at least 1")
        self.logits = nn.Parameter(torch.zeros(prototypes))
        self.centres = nn.Parameter(torch.randn(prototypes, 2 * dim))
        self.raw_scale = nn.Parameter(torch.zeros(prototypes, 2 * dim))
        self.mixing = nn.Parameter(torch.zeros(prototypes, 2 * dim, 2 * dim))
        self.scale = BoundedScale(LOG_SCALE_BOUNDS)

    def couple(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        context, target = self.log_densities(z_context, z_target)
        weights = self.logits.log_softmax(-1) + context  # [..., K]
        return (weights.logsumexp(-1) - (weights + target).logsumexp(-1)) / self.dim

    def log_densities(self, z_context: Tensor, z_target: Tensor) -> tuple[Tensor, Tensor]:
        """Of the context, and of the target given it, under each prototype: both `[..., K]`."""
        centred = torch.cat([z_context, z_target], -1).unsqueeze(-2) - self.centres  # [..., K, 2D]
        scale = self.scale(self.raw_scale)
        # A = diag(1 / scale) (I + lower triangle)
        white = (centred + torch.einsum("kij,...kj->...ki", self.mixing.tril(-1), centred)) / scale
        density = -0.5 * (white.square() + LOG_2PI) - scale.log()
        context, target = density.unflatten(-1, (2, self.dim)).sum(-1).unbind(-1)
        return context, target


class MixtureDensityGMJE(Objective):
    """Likelihood under a mixture whose parts the predictor tells (GMJE-MDN, after arXiv 2603.26799).

    The conditional mixture density network of Bishop (1994) in the embedding.

    Arguments:
        resolution: of the likelihood, as in `ConditionalGJE`.
        common: options of every objective.
    """

    name = "gmje_mdn"
    beliefs = ("mixture",)

    def __init__(self, dim: int, *, resolution: float = 0.0, **common: Any):
        super().__init__(dim, **common)
        require(resolution >= 0, "resolution", resolution, "at least 0")
        self.resolution = resolution

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        return negative_log_likelihood(belief, z_target, self.resolution)
