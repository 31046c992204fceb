"""Variational Joint Embedding: an evidence lower bound on the target, split into direction and radius."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gje_world.beliefs import Belief, StudentT
from gje_world.objectives.objective import Objective, require

SHORTEST = 1e-3  # radius below which an embedding loses its direction, so that gradients stay bounded


class VJE(Objective):
    r"""VJE-style ELBO (after arXiv 2602.05639), per dimension; the belief is the posterior.

    .. math:: -\frac1D \Big( E_{s \sim q} \big[\log p(u_t \mid s) + \log p(r_t \mid s)\big]
        - \mathrm{KL}(q \,\|\, N(0, I)) \Big), \qquad q = N(\mu, \mathrm{diag}(\sigma^2))

    The target is split into direction and radius, :math:`u = \sqrt D\, v / |v|` and
    :math:`r = |v| / \sqrt D`. The direction has a Student-t likelihood around that of a sample of the
    posterior, whose feature-wise scales are the posterior's standard deviations; the radius has one of its
    own, of unit scale. Where both views predict each other the bound is symmetric: the trainer asks for both.
    The factors :math:`\sqrt D`, by which the direction's features have unit scale, and the radius' likelihood
    are our choice.

    As :math:`\nu \to \infty` the likelihood becomes Gaussian, and training unstable.

    Arguments:
        df: degrees of freedom :math:`\nu` of both likelihoods.
        common: options of every objective.
    """

    name = "vje"
    beliefs = ("diagonal",)

    def __init__(self, dim: int, *, df: float = 4.0, marginal: str = "none", **common: Any):
        super().__init__(dim, marginal=marginal, **common)
        require(df > 0, "df", df, "above 0")
        self.df = df

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        return -elbo(belief, z_target, self.df) / self.dim


def elbo(belief: Belief, z_target: Tensor, df: float) -> Tensor:
    """Evidence lower bound `[...]` on `z_target [..., D]` with a diagonal Gaussian posterior, by one draw."""
    root = math.sqrt(z_target.shape[-1])
    sample = belief.rsample()
    freedom = z_target.new_tensor(df).expand(sample.shape[:-1])
    towards, seen = (root * F.normalize(z, dim=-1, eps=SHORTEST) for z in (sample, z_target))
    length, found = (z.norm(dim=-1, keepdim=True) / root for z in (sample, z_target))
    direction = StudentT(towards, belief.stddev, freedom)
    radius = StudentT(length, torch.ones_like(length), freedom)
    likelihood = direction.log_prob(seen) + radius.log_prob(found)
    prior = Normal(z_target.new_zeros(()), z_target.new_ones(()), validate_args=False)
    posterior = Normal(belief.mean, belief.stddev, validate_args=False)
    return likelihood - kl_divergence(posterior, prior).sum(-1)
