"""What every objective can do."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from gje_world.beliefs import Belief


class Objective(Protocol):
    """How a belief and its target become a loss."""

    needs_density: ClassVar[bool]  # whether the belief must have a density

    def predict(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Loss `[...]` of each prediction of `z_target [..., D]`."""
        ...

    def marginal(self, z: Tensor) -> Tensor:
        """Weighted marginal term of all embeddings `z [..., D]` of the batch, a scalar."""
        ...
