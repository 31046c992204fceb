"""How embeddings and beliefs are learnt: Gaussian Joint Embeddings and their relatives, one file each."""

from __future__ import annotations

import inspect
from typing import Any

from gje_world.objectives.consistency import Consistency
from gje_world.objectives.coupled import Coupled
from gje_world.objectives.gje_conditional import ConditionalGJE
from gje_world.objectives.gje_joint import JointGJE, condition, joint_moments
from gje_world.objectives.gmje import MixtureDensityGMJE, PrototypeGMJE
from gje_world.objectives.gmje_gng import NeuralGasGMJE
from gje_world.objectives.gmje_smc import ParticleGMJE
from gje_world.objectives.marginal import MARGINALS, gaussian_kl, sigreg, variance_covariance
from gje_world.objectives.objective import TARGETS, Objective
from gje_world.objectives.statistics import moments
from gje_world.objectives.vi_simsiam import VISimSiam
from gje_world.objectives.vje import VJE
from gje_world.options import require_taken

OBJECTIVES: dict[str, type[Objective]] = {
    "gje_conditional": ConditionalGJE,
    "gje_joint": JointGJE,
    "gmje": PrototypeGMJE,
    "gmje_mdn": MixtureDensityGMJE,
    "gmje_gng": NeuralGasGMJE,
    "gmje_smc": ParticleGMJE,
    "vje": VJE,
    "vi_simsiam": VISimSiam,
    "consistency": Consistency,
}


def make_objective(name: str, dim: int, **options: Any) -> Objective:
    """Objective called `name` for embeddings of dimension `dim`, with its `options`.

    Raises:
        ValueError: there is no such objective, or it has no such option or value.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")
    require_taken(f"objective={name}", options, objective_options(name))
    return OBJECTIVES[name](dim, **options)


def objective_options(name: str) -> set[str]:
    """Names of the options that `make_objective(name, …)` takes: its class's, and those it passes on."""
    names: set[str] = set()
    for part in OBJECTIVES[name].__mro__:
        if issubclass(part, Objective) and "__init__" in vars(part):
            names |= set(inspect.signature(part).parameters)
    return names - {"dim", "common"}


__all__ = [
    "MARGINALS",
    "OBJECTIVES",
    "TARGETS",
    "VJE",
    "ConditionalGJE",
    "Consistency",
    "Coupled",
    "JointGJE",
    "MixtureDensityGMJE",
    "NeuralGasGMJE",
    "Objective",
    "ParticleGMJE",
    "PrototypeGMJE",
    "VISimSiam",
    "condition",
    "gaussian_kl",
    "joint_moments",
    "make_objective",
    "moments",
    "objective_options",
    "sigreg",
    "variance_covariance",
]
