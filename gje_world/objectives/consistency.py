"""Latent consistency by squared error: the deterministic ablation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.objectives.marginal import gaussian_kl


class Consistency:
    """Squared error between the belief's mean and the target.

    With its defaults this is the objective of TD-MPC2 (Hansen et al., 2024, eq. 3): a stop-gradient on the
    target, and, in the world model, embeddings bounded to simplices, keep it from collapsing.

    Arguments:
        marginal_weight: weight of the Gaussian marginal term.
        stop_gradient: hold the target fixed.
    """

    needs_density: ClassVar[bool] = False

    def __init__(self, marginal_weight: float = 0.0, stop_gradient: bool = True):
        self.marginal_weight = marginal_weight
        self.stop_gradient = stop_gradient

    def predict(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Mean squared error of `belief.mean` from `z_target [..., D]`, shape `[...]`."""
        target = z_target.detach() if self.stop_gradient else z_target
        return (belief.mean - target).square().mean(-1)

    def marginal(self, z: Tensor) -> Tensor:
        """Weighted marginal term of all embeddings `z [..., D]` of the batch, a scalar."""
        return self.marginal_weight * gaussian_kl(z) if self.marginal_weight else z.new_zeros(())
