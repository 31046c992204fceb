"""What is predicted: probability distributions over embeddings, and the heads that make them."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from gje_world.beliefs.belief import Belief
from gje_world.beliefs.dense import CovarianceGaussian, CovarianceHead, PrecisionGaussian, PrecisionHead
from gje_world.beliefs.diagonal import DiagonalGaussian, DiagonalHead
from gje_world.beliefs.ensemble import Ensemble, EnsembleHead, Pool
from gje_world.beliefs.flow import Flow, FlowHead
from gje_world.beliefs.gaussian import Gaussian
from gje_world.beliefs.low_rank import LowRankGaussian, LowRankHead
from gje_world.beliefs.mixture import Mixture, MixtureHead
from gje_world.beliefs.point import Point, PointHead
from gje_world.beliefs.product import fuse
from gje_world.beliefs.scale_mixture import ScaleMixture
from gje_world.beliefs.spectral import SpectralGaussian, SpectralHead
from gje_world.beliefs.spherical import Polar, PolarHead, PowerSpherical, PowerSphericalHead
from gje_world.beliefs.student_t import StudentT, StudentTHead
from gje_world.options import require_taken

HEADS: dict[str, type[nn.Module]] = {
    "point": PointHead,
    "diagonal": DiagonalHead,
    "low_rank": LowRankHead,
    "full": PrecisionHead,
    "full_covariance": CovarianceHead,
    "spectral": SpectralHead,
    "mixture": MixtureHead,
    "student_t": StudentTHead,
    "polar": PolarHead,
    "power_spherical": PowerSphericalHead,
    "flow": FlowHead,
    "ensemble": EnsembleHead,
}


UNIT_LOG_STD_BOUNDS = (-5.0, 1.5)  # where a marginal term keeps embeddings near unit scale


def make_head(name: str, features: int, dim: int, **options: Any) -> nn.Module:
    """Head of the belief called `name`: a module from features `[..., F]` to a belief over `[..., D]`.

    Arguments:
        options: those of the head's class; an ensemble's `member` is the name of its members' belief, and
            what it does not take itself goes to them.

    Raises:
        ValueError: there is no such belief, or it has no such option or value.
    """
    require_taken(f"belief={name}", options, head_options(name, **options))
    if name == "ensemble":
        own = {"members": options.pop("members")} if "members" in options else {}
        member = partial(make_head, options.pop("member", "diagonal"), **options)
        return EnsembleHead(features, dim, member, **own)
    return HEADS[name](features, dim, **options)


def head_options(name: str, member: str = "diagonal", **_: Any) -> set[str]:
    """Names of the options that `make_head(name, …)` takes.

    Raises:
        ValueError: there is no such belief.
    """
    if name not in HEADS:
        raise ValueError(f"belief must be one of {', '.join(HEADS)}; got {name!r}")
    own = set(inspect.signature(HEADS[name]).parameters) - {"features", "dim"}
    return own | head_options(member) if name == "ensemble" and member != "ensemble" else own


def unit_scale_options(name: str, **options: Any) -> dict[str, Any]:
    """Those `options` of `make_head`, with spreads bounded as embeddings near unit scale ask for.

    The bounds are those given, if any; beliefs whose spread is in no units of the embedding have their own.
    """
    takes = "log_std_bounds" in head_options(name, **options)
    return ({"log_std_bounds": UNIT_LOG_STD_BOUNDS} if takes else {}) | options


__all__ = [
    "HEADS",
    "UNIT_LOG_STD_BOUNDS",
    "Belief",
    "CovarianceGaussian",
    "DiagonalGaussian",
    "DiagonalHead",
    "Ensemble",
    "Flow",
    "Gaussian",
    "LowRankGaussian",
    "Mixture",
    "Point",
    "PointHead",
    "Polar",
    "Pool",
    "PowerSpherical",
    "PrecisionGaussian",
    "ScaleMixture",
    "SpectralGaussian",
    "StudentT",
    "fuse",
    "head_options",
    "make_head",
    "unit_scale_options",
]
