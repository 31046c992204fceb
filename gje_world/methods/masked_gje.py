"""Masked GJE: the hidden patches' pixels where they can be told, and beliefs over them where they cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gje_world.beliefs import Belief, make_head, unit_scale_options
from gje_world.methods.mae import Masked
from gje_world.methods.method import spread
from gje_world.networks import Encoder
from gje_world.objectives import make_objective


class MaskedGJE(Masked):
    r"""Masked reconstruction with a GJE loss on the patches that are ambiguous.

    .. math:: L = L_\mathrm{MAE} + \gamma \Big(\frac1M \sum_{p\ \mathrm{hidden}} w_p\,
        \ell\big(h(c_p), v_p\big) + \lambda\, L_\mathrm{marginal}\Big), \qquad
        w_p = M\, \mathrm{softmax}_p\Big(\frac{H_p}{D}\Big)

    The decoder's feature :math:`c_p` of a hidden patch tells its pixels, as in MAE, and a belief over its
    embedding :math:`v_p`, which is what the encoder makes of the hidden patches by themselves, projected. The
    weight :math:`w_p`, held fixed, grows with the belief's own entropy :math:`H_p`, so that where the patch
    could be many things the loss asks for what it is like, less so for what its pixels are.

    Arguments:
        objective: name and options (`gje_world.objectives.make_objective`).
        belief: name and options (`gje_world.beliefs.make_head`).
        dim: dimension `D` of a patch's projection.
        patch_weight: :math:`\gamma`.
        common: options of every masked method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        objective: Mapping[str, Any] | None = None,
        belief: Mapping[str, Any] | None = None,
        dim: int = 64,
        patch_weight: float = 0.1,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.patch_weight = patch_weight
        self.objective = make_objective(dim=dim, **(objective or {"name": "gje_conditional"}))
        if self.objective.target == "momentum":
            raise ValueError(
                "objective.target=momentum has no encoder to follow in method=masked_gje; use stop_gradient"
            )
        options = dict(belief or {"name": "diagonal"})
        self.project = nn.Linear(self.encoder.width, dim)
        features = self.tell_pixels.in_features
        self.head = make_head(options["name"], features, dim, **unit_scale_options(**options))

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.encoder.pixels(views[0].flatten(0, 1))
        seen, hidden = self.split(images)
        tokens = self.encoder.tokens(images, seen)
        features = self.decode(tokens, seen, hidden)
        told = self.tell_pixels(features).float()
        pixels = (told - self.pixel_targets(images, hidden)).square().mean()
        v = self.project(self.encoder.tokens(images, hidden)).float()  # [N, M, D]
        belief = self.head(features)
        weights = ambiguity(belief)
        predicted = (weights * self.objective.predict(belief, v)).mean()
        marginal = self.objective.marginal(v)
        metrics = {
            "loss/pixels": pixels.detach(),
            "loss/prediction": predicted.detach(),
            "loss/marginal": marginal.detach(),
            "belief/std": belief.variance.detach().mean().sqrt(),
            "belief/largest_weight": weights.max(),
        }
        return pixels + self.patch_weight * (predicted + marginal), metrics | spread(tokens.mean(1))


@torch.no_grad()
def ambiguity(belief: Belief) -> Tensor:
    """Weights `[N, M]` of beliefs over the hidden patches of each image, of mean 1, by their entropy."""
    return belief.entropy().div(belief.dim).softmax(-1) * belief.batch_shape[-1]
