"""Objectives that judge both embeddings of a pair together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gje_world.beliefs import Belief, Point
from gje_world.objectives.objective import Objective, negative_log_likelihood, require


class Coupled(Objective):
    """A loss that couples the two embeddings of a pair, beside which the belief is learnt by its likelihood.

    The context's embedding is the mean of the belief, which is what the predictor makes of the context. The
    coupling, with the marginal term, trains encoder and predictor. So does the belief's likelihood, whose
    target is held fixed but not its mean: it tells how far the prediction may be off, and sets where it lies,
    which a coupling that knows no scale leaves open. Its gradient can be far larger. A point has
    no likelihood: then the coupling is all (from Python; the commands, whose gauges ask for a density, refuse
    it).

    Arguments:
        resolution: of the belief's likelihood, as in `ConditionalGJE`.
        common: options of every objective.
    """

    def __init__(self, dim: int, *, resolution: float = 0.0, **common: Any):
        super().__init__(dim, **common)
        require(resolution >= 0, "resolution", resolution, "at least 0")
        self.resolution = resolution

    def couple(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Coupling loss `[...]` of pairs `z_context`, `z_target [..., D]`, in nats per dimension."""
        raise NotImplementedError

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        coupling = self.couple(belief.mean, z_target)
        if isinstance(belief, Point):
            return coupling
        return coupling + negative_log_likelihood(belief, z_target.detach(), self.resolution)
