"""BYOL: predict what a moving average of the network makes of the other view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gje_world.methods.method import Method, follow, moving_average, rising, spread
from gje_world.networks import Encoder
from gje_world.predictor import projector


class BYOL(Method):
    r"""Squared distance of directions (Grill et al., 2020, eq. 2), both ways.

    .. math:: L = \|\bar q(v_A) - \bar v'_B\|^2 + \|\bar q(v_B) - \bar v'_A\|^2

    with the target's :math:`v'` from weights that follow the network's at a momentum rising to 1.

    Arguments:
        momentum: at the start; the paper has 0.996 for 300 epochs or more, 0.99 for 100.
        dim: of projection and prediction.
        projector_hidden: width of the hidden layers of projector and predictor.
        common: options of every method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        momentum: float = 0.99,
        dim: int = 256,
        projector_hidden: int = 4096,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.momentum = momentum
        self.projector = projector(encoder.dim, projector_hidden, dim, layers=2)
        self.predict = projector(dim, projector_hidden, dim, layers=2)
        self.target_encoder, self.target_projector = moving_average(encoder), moving_average(self.projector)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        predicted = self.predict(self.projector(z.flatten(0, 1))).unflatten(0, z.shape[:2])
        with torch.no_grad():
            target = self.target_projector(self.encode(views[0], self.target_encoder).flatten(0, 1))
        loss = 4 + 4 * negative_cosine(predicted, target.unflatten(0, z.shape[:2]).flip(0))
        return loss, spread(z)

    def after_update(self, update: int) -> None:
        momentum = rising(self.momentum, self.progress(update))
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine of `predicted` and `target [..., D]`, a scalar."""
    with torch.autocast(predicted.device.type, enabled=False):
        return -F.cosine_similarity(predicted.float(), target.float(), dim=-1).mean()
