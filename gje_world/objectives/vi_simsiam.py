"""VI-SimSiam: a power spherical belief over the direction of the other view."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.objectives.objective import Objective


class VISimSiam(Objective):
    r"""Likelihood of the target's direction under a power spherical belief, against a uniform prior.

    .. math:: -\frac1D \log p(z_t / |z_t|), \qquad p(u) \propto (1 + \mu^\top u)^\kappa

    After VI-SimSiam (Nakamura et al., 2023, "Representation Uncertainty in Self-Supervised Learning as
    Variational Inference"): SimSiam (Chen and He, 2021) with a concentration that tells how sure the
    prediction is. The loss is given relative to the uniform distribution on the sphere, so that 0 is knowing
    nothing. What keeps it from collapsing is SimSiam's stop-gradient and predictor, not a marginal term.

    Arguments:
        common: options of every objective.
    """

    name = "vi_simsiam"
    beliefs = ("power_spherical",)

    def __init__(self, dim: int, *, marginal: str = "none", target: str = "stop_gradient", **common: Any):
        super().__init__(dim, marginal=marginal, target=target, **common)

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        return -(belief.log_prob(F.normalize(z_target, dim=-1)) + log_area(self.dim)) / self.dim


def log_area(dim: int) -> float:
    """Natural logarithm of the area of the unit sphere in `dim` dimensions."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
