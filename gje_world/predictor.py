"""The predictor over views: a projection of the embedding, and beliefs over that of another view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gje_world.beliefs import Belief, make_head, unit_scale_options
from gje_world.networks import mlp

DIRECTIONS = ("power_spherical",)  # beliefs over unit vectors


class ViewPredictor(nn.Module):
    """`z` is projected to `v`, and from `v` a head tells a belief over the `v` of another view of the image.

    Arguments:
        features: dimension `F` of the encoder's embedding.
        dim: dimension `D` of the projection.
        projector_hidden: width of the projector's two hidden layers, batch-normalised.
        hidden: width of the predictor's two layers.
        belief: name of the belief (`gje_world.beliefs.HEADS`) and options of its head; standard deviations
            lie between e^-5 and e^1.5 unless told otherwise.
    """

    def __init__(
        self,
        features: int,
        dim: int = 128,
        *,
        projector_hidden: int = 512,
        hidden: int = 256,
        belief: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        options = dict(belief or {"name": "diagonal"})
        name = options.pop("name")
        options = unit_scale_options(name, **options)
        self.projector = projector(features, projector_hidden, dim)
        self.trunk = mlp(dim, hidden)
        self.head = make_head(name, hidden, dim, **options)
        self.dim, self.directions = dim, name in DIRECTIONS
        self.architecture = {
            "features": features,
            "dim": dim,
            "projector_hidden": projector_hidden,
            "hidden": hidden,
            "belief": {"name": name, **options},
        }

    def project(self, z: Tensor, projector: nn.Module | None = None) -> Tensor:
        """What beliefs are over: `v [..., D]` of the encoder's `z [..., F]`, a direction where they are.

        Arguments:
            projector: in place of its own, such as a moving average of it.
        """
        v = (projector or self.projector)(z.flatten(0, -2)).float().unflatten(0, z.shape[:-1])
        return F.normalize(v, dim=-1) if self.directions else v

    def believe(self, v: Tensor, *, held: bool = False) -> Belief:
        """Belief over the projection of another view of the image that `v [..., D]` is of.

        The head tells how the other view differs, so that before anything is learnt both are expected to be
        alike: pulling them together need not wait for the predictor. Directions are told outright.

        Arguments:
            held: with gradient to `v` alone, and none to the weights that tell the belief.
        """
        told = held_call(self.head, held_call(self.trunk, v)) if held else self.head(self.trunk(v))
        return told if self.directions else told.translate(v)


def held_call(module: nn.Module, inputs: Tensor) -> Any:
    """`module(inputs)` with gradient to the inputs alone."""
    return functional_call(module, {name: p.detach() for name, p in module.named_parameters()}, (inputs,))


def projector(
    features: int, hidden: int, dim: int, layers: int = 3, *, last_norm: bool = False
) -> nn.Sequential:
    """Perceptron `[N, F] -> [N, D]` of linear layers, each but the last with batch normalisation and ReLU.

    Arguments:
        layers: linear layers in all, at least 1.
        last_norm: a batch normalisation without scale and shift follows the last.
    """
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        features = hidden
    parts.append(nn.Linear(features, dim, bias=not last_norm))
    if last_norm:
        parts.append(nn.BatchNorm1d(dim, affine=False))
    return nn.Sequential(*parts)
