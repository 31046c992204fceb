"""What a command can be told of its objective (config group `objective`), and the check of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gje_world.beliefs.config import BeliefConfig
from gje_world.objectives import MARGINALS, OBJECTIVES, Objective, make_objective, objective_options
from gje_world.options import ConfigError, given, option

RESOLUTION = 0.35  # of a conditional likelihood, where no other is asked for
SCALE_HOLDING = 2.0  # marginal weight of a conditional likelihood without resolution: 1 holds no scale
SHARP = ("polar", "power_spherical", "flow")  # beliefs whose likelihood has no resolution


@dataclass
class ObjectiveConfig:
    """The world model's objective (config group `objective`); null: its own default, where it has one."""

    name: str = option("gje_conditional", "set by the group, as in objective=gje_joint")
    marginal: str | None = option(None, f"term against collapse: {', '.join(MARGINALS)}")
    marginal_weight: float | None = option(
        None, "of the marginal term; null: 1, or 2 for likelihoods without resolution"
    )
    target: str | None = option(None, "online: gradients reach the targets; stop_gradient; momentum")
    momentum: float | None = option(None, "decay of the moving average of target=momentum; null: 0.99")
    resolution: float | None = option(
        None,
        f"finest error that counts, in embedding units; null: {RESOLUTION}; without contrast 0 for images",
    )
    contrast: float | None = option(
        None, "share of telling contexts apart; null: 0, or 0.8 between views (docs/objectives.md)"
    )
    temperature: float | None = option(None, "of gje_conditional: of its contrast; null: 0.25")
    beta: float | None = option(None, "of gje_conditional: power of the variance that weighs its likelihood")
    fit: str | None = option(
        None, "of gje_conditional: likelihood, composite or moments (docs/objectives.md)"
    )
    form: str | None = option(None, "of gje_joint: scale_free, conditional or primal")
    shrinkage: float | None = option(None, "of gje_joint: of the covariance towards its diagonal")
    prototypes: int | None = option(None, "of gmje: components of the mixture")
    nodes: int | None = option(None, "of gmje_gng: most the gas may have")
    particles: int | None = option(None, "of gmje_smc: size of the memory bank")
    bandwidth: float | None = option(None, "of gmje_smc: standard deviation of a particle")
    df: float | None = option(None, "of vje: degrees of freedom of its likelihoods")


def keywords(
    objective: ObjectiveConfig, belief: BeliefConfig, *, resolution: float = RESOLUTION, contrast: float = 0.0
) -> dict[str, Any]:
    """Name and options as `make_objective` takes them, of an objective that there is, for that belief.

    Arguments:
        resolution, contrast: of its likelihood, where it has one and the options leave it open.
    """
    options = given(objective)
    likelihood = objective.fit != "moments"
    takes = objective_options(objective.name) if likelihood else ()
    if "contrast" in takes and not objective.beta:
        options = {"contrast": contrast} | options
    if "resolution" in takes:
        options = {"resolution": resolution} | options
    if objective.name in ("gje_conditional", "gmje_mdn") and likelihood:
        kind = belief.member if belief.name == "ensemble" else belief.name
        plain = kind in SHARP or not options["resolution"]
    else:
        plain = objective.name in ("gmje", "gmje_gng") or objective.form == "conditional"
    return ({"marginal_weight": SCALE_HOLDING} if plain else {}) | options


def check_objective(
    objective: ObjectiveConfig, belief: BeliefConfig, dim: int, **defaults: float
) -> Objective:
    """Refuses an objective that is unknown, or does not fit the belief; else makes it.

    Arguments:
        dim: embedding dimension.
        defaults: as `keywords` takes them.

    Raises:
        ConfigError: the first option found wrong.
    """
    if objective.name not in OBJECTIVES:
        raise ConfigError(f"objective={objective.name} must be one of {', '.join(OBJECTIVES)}")
    try:
        made = make_objective(dim=dim, **keywords(objective, belief, **defaults))
        made.require_belief(belief.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if objective.momentum is not None and made.target != "momentum":
        raise ConfigError(f"objective.momentum={objective.momentum} needs objective.target=momentum")
    if objective.temperature is not None and not made.contrast:
        raise ConfigError(f"objective.temperature={objective.temperature} needs objective.contrast above 0")
    if made.needs_density and belief.name == "point":
        raise ConfigError(
            f"belief=point has no density, which objective={made.name} needs; use belief=diagonal"
        )
    return made


def check_world_objective(objective: ObjectiveConfig, belief: BeliefConfig, dim: int) -> Objective:
    """As `check_objective`, of what is to be learnt by a model that goes on from its own beliefs.

    Raises:
        ConfigError: the first option found wrong.
    """
    if objective.name == "vi_simsiam":
        raise ConfigError(
            "objective=vi_simsiam is over directions alone, for views of images; a world model needs another"
        )
    return check_objective(objective, belief, dim)
