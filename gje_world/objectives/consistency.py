"""Latent consistency by squared error: the deterministic ablation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.objectives.objective import Objective


class Consistency(Objective):
    """Squared error between the belief's mean and the target.

    With its defaults this is after TD-MPC2 (Hansen et al., 2024, eq. 3): a stop-gradient on the target, and,
    in the world model, embeddings bounded to simplices, keep it from collapsing. Unlike there, each step of
    a sequence is predicted from the embedding of the frame before, as all objectives here are learnt.

    Arguments:
        common: options of every objective.
    """

    name = "consistency"
    needs_density: ClassVar[bool] = False
    beliefs = ("point",)  # a spread would never be learnt

    def __init__(self, dim: int, *, marginal: str = "none", target: str = "stop_gradient", **common: Any):
        super().__init__(dim, marginal=marginal, target=target, **common)

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Mean squared error of `belief.mean` from `z_target [..., D]`, shape `[...]`."""
        return (belief.mean - z_target).square().mean(-1)
