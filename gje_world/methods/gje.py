"""Gaussian Joint Embeddings of two views: a belief over the one from the other, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder
from gje_world.objectives import make_objective
from gje_world.predictor import ViewPredictor


class GJE(Method):
    r"""Any objective with any belief, of view B from view A and of A from B.

    .. math:: L = \tfrac12 \big(\ell(h(v_A), v_B) + \ell(h(v_B), v_A)\big)
        + \lambda\, L_\mathrm{marginal}(\{v_A, v_B\})

    with :math:`v` the projection of a view's embedding, and :math:`h` the predictor of beliefs (after arXiv
    2603.26799; `gje_world.objectives` has the equations of each). With a share :math:`\alpha` of contrast it
    is :math:`1 - \alpha` times that, plus :math:`\alpha` times the mean of `Objective.compare` both ways. By
    default gradients flow through both sides, and both views share all weights.

    Arguments:
        objective: name and options (`gje_world.objectives.make_objective`).
        belief: name and options (`gje_world.beliefs.make_head`).
        dim: dimension `D` of the projection, which the objective is in.
        projector_hidden: width of the projector's hidden layers.
        hidden: width of the predictor.
        common: options of every method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        objective: Mapping[str, Any] | None = None,
        belief: Mapping[str, Any] | None = None,
        dim: int = 128,
        projector_hidden: int = 512,
        hidden: int = 256,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.objective = make_objective(dim=dim, **(objective or {"name": "gje_conditional"}))
        self.beliefs = ViewPredictor(
            encoder.dim, dim, projector_hidden=projector_hidden, hidden=hidden, belief=belief
        )
        self.average = self.objective.momentum_encoder(nn.ModuleList([encoder, self.beliefs.projector]))

    @property
    def predictor(self) -> ViewPredictor:
        return self.beliefs

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        v = self.beliefs.project(z)  # [2, B, D]
        belief, target = self.beliefs.believe(v), self.targets(views[0], v).flip(0)
        predicted = self.objective.predict(belief, target).mean()
        marginal = self.objective.marginal(v)
        loss, share = predicted + marginal, self.objective.contrast
        metrics = {
            "loss/prediction": predicted.detach(),
            "loss/marginal": marginal.detach(),
            "projection/std": spread(v)["embedding/std"],
        }
        with torch.no_grad():
            metrics["belief/std"] = belief.variance.mean().sqrt()
        if share:  # no gradient to how beliefs are told: they stay true
            compared = self.objective.compare(self.beliefs.believe(v, held=True), target).mean()
            metrics["loss/contrast"] = compared.detach()
            loss = (1 - share) * loss + share * compared
        return loss, metrics | spread(z)

    def targets(self, views: Tensor, v: Tensor) -> Tensor:
        """Projections `[2, B, D]` to be predicted: `v` itself, or those of the moving average."""
        if self.average is None:
            return v
        encoder, projector = self.average.module.children()
        with torch.no_grad():
            return self.beliefs.project(self.encode(views, encoder), projector)

    def after_update(self, update: int) -> None:
        if self.average is not None:
            self.average.update_parameters(nn.ModuleList([self.encoder, self.beliefs.projector]))
