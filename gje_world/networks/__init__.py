"""What learns: encoders, perceptrons, normalisation."""

from __future__ import annotations

import inspect
from typing import Any

from gje_world.networks.adapted import AdaptedEncoder
from gje_world.networks.conv import ConvEncoder
from gje_world.networks.encoder import Encoder
from gje_world.networks.keypoints import KeypointEncoder
from gje_world.networks.mlp import EnsembleMLP, NormedLinear, mlp, simplicial
from gje_world.networks.resnet import ResNet18Encoder, ResNet50Encoder
from gje_world.networks.timm import TimmEncoder
from gje_world.networks.vit import ViTEncoder, ViTSmallEncoder, ViTTinyEncoder

ENCODERS: dict[str, type[Encoder]] = {
    encoder.name: encoder
    for encoder in (
        ConvEncoder,
        KeypointEncoder,
        ResNet18Encoder,
        ResNet50Encoder,
        ViTTinyEncoder,
        ViTSmallEncoder,
        TimmEncoder,
    )
}


def make_encoder(name: str, channels: int, dim: int | None, image_size: int, **options: Any) -> Encoder:
    """Encoder called `name` for images `[..., channels, image_size, image_size]`.

    Arguments:
        dim: embedding dimension `D`; None: as many as the network has features (not for `conv`).
        options: those of the encoder's class.

    Raises:
        ValueError: there is no such encoder, or it has no such option, or no such size.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}; got {name!r}")
    takes = ENCODERS[name].options
    if unknown := sorted(options.keys() - set(takes)):
        raise ValueError(f"encoder={name} has no option {unknown[0]}; it takes {', '.join(takes)}")
    make: Any = ENCODERS[name]
    if dim is None and inspect.signature(make).parameters["dim"].default is inspect.Parameter.empty:
        raise ValueError(f"encoder={name} needs an embedding dimension: encoder.dim must be a number")
    return make(channels, dim, image_size, **options)


__all__ = [
    "ENCODERS",
    "AdaptedEncoder",
    "ConvEncoder",
    "Encoder",
    "EnsembleMLP",
    "KeypointEncoder",
    "NormedLinear",
    "ResNet18Encoder",
    "ResNet50Encoder",
    "TimmEncoder",
    "ViTEncoder",
    "ViTSmallEncoder",
    "ViTTinyEncoder",
    "make_encoder",
    "mlp",
    "simplicial",
]
