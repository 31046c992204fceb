"""How encoders are pretrained on views of images: GJE and the baselines it is held against, one file each."""

from __future__ import annotations

import inspect
from typing import Any

from gje_world.methods.barlow_twins import BarlowTwins
from gje_world.methods.batch_norm import GlobalBatchNorm, over_ranks
from gje_world.methods.byol import BYOL
from gje_world.methods.dino import DINO
from gje_world.methods.gje import GJE
from gje_world.methods.mae import MAE
from gje_world.methods.masked_gje import MaskedGJE
from gje_world.methods.method import Method
from gje_world.methods.simclr import SimCLR
from gje_world.methods.simsiam import SimSiam
from gje_world.methods.vicreg import VICReg
from gje_world.networks import Encoder
from gje_world.options import require_taken

METHODS: dict[str, type[Method]] = {
    "gje": GJE,
    "masked_gje": MaskedGJE,
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "vicreg": VICReg,
    "barlow_twins": BarlowTwins,
    "dino": DINO,
    "mae": MAE,
}


def make_method(name: str, encoder: Encoder, updates: int, **options: Any) -> Method:
    """Method called `name` that pretrains `encoder` in so many gradient steps.

    Raises:
        ValueError: there is no such method, or it has no such option, or does not go with the encoder.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    require_taken(f"method={name}", options, method_options(name))
    return METHODS[name](encoder, updates=updates, **options)


def method_options(name: str) -> set[str]:
    """Names of the options that `make_method(name, …)` takes: its class's, and those it passes on."""
    names: set[str] = set()
    for part in METHODS[name].__mro__:
        if issubclass(part, Method) and "__init__" in vars(part):
            names |= set(inspect.signature(part).parameters)
    return names - {"encoder", "updates", "common"}


__all__ = [
    "BYOL",
    "DINO",
    "GJE",
    "MAE",
    "METHODS",
    "BarlowTwins",
    "GlobalBatchNorm",
    "MaskedGJE",
    "Method",
    "SimCLR",
    "SimSiam",
    "VICReg",
    "make_method",
    "method_options",
    "over_ranks",
]
