"""SimSiam: predict the other view, with no gradient through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gje_world.methods.byol import negative_cosine
from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder
from gje_world.predictor import projector


class SimSiam(Method):
    r"""Negative cosine with a stop-gradient (Chen and He, 2021, eq. 4).

    .. math:: L = -\tfrac12 \cos(q(v_A), \lfloor v_B \rfloor) - \tfrac12 \cos(q(v_B), \lfloor v_A \rfloor)

    Arguments:
        dim: of projection and prediction, and of the projector's hidden layers.
        predictor_hidden: of the predictor's bottleneck; the paper has a quarter of `dim`.
        common: options of every method.
    """

    def __init__(
        self, encoder: Encoder, *, dim: int = 2048, predictor_hidden: int | None = None, **common: Any
    ):
        super().__init__(encoder, **common)
        self.projector = projector(encoder.dim, dim, dim, layers=3, last_norm=True)
        self.predict = projector(dim, predictor_hidden or dim // 4, dim, layers=2)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        v = self.projector(z.flatten(0, 1))
        predicted, v = self.predict(v).unflatten(0, z.shape[:2]), v.unflatten(0, z.shape[:2])
        return negative_cosine(predicted, v.detach().flip(0)), spread(z)
