"""Conditional Gaussian Joint Embeddings: likelihood of the target under the belief, plus a marginal term."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.objectives.marginal import gaussian_kl


class ConditionalGJE:
    r"""The default objective (after arXiv 2603.26799, conditional form).

    .. math:: L = -\frac1D\, E[\log p(z_t \mid z_c)] + \lambda\, L_\mathrm{marginal}

    Alone, the likelihood is unbounded below: shrink the embeddings, then the variance. With the Gaussian
    marginal term at :math:`\lambda = 1` the sum is, up to constants, minus a Gaussian lower bound on the
    mutual information of context and target, so neither stop-gradient nor a momentum encoder is needed.

    The likelihood is taken at a finite resolution :math:`\tau` (`Belief.learning_log_prob`). In a nearly
    deterministic world it would otherwise reward ever finer prediction of what is predicted already: the
    slowest variable takes the gradient, with weight :math:`1/\sigma^2`, and its harmonics fill the embedding.

    Arguments:
        marginal_weight: :math:`\lambda`.
        stop_gradient: hold the target fixed, to study what the marginal term alone is needed for.
        resolution: :math:`\tau`, in units of the embedding; 0 for the plain likelihood.
    """

    needs_density: ClassVar[bool] = True

    def __init__(self, marginal_weight: float = 1.0, stop_gradient: bool = False, resolution: float = 0.0):
        self.marginal_weight = marginal_weight
        self.stop_gradient = stop_gradient
        self.resolution = resolution

    def predict(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Negative log-likelihood per dimension of `z_target [..., D]`, shape `[...]`, in nats."""
        target = z_target.detach() if self.stop_gradient else z_target
        with torch.autocast(target.device.type, enabled=False):
            if not self.resolution:
                return -belief.log_prob(target.float()) / target.shape[-1]
            return -belief.learning_log_prob(target.float(), self.resolution) / target.shape[-1]

    def marginal(self, z: Tensor) -> Tensor:
        """Weighted marginal term of all embeddings `z [..., D]` of the batch, a scalar."""
        return self.marginal_weight * gaussian_kl(z)
