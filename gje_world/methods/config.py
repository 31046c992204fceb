"""What a command can be told of its method (config group `method`), and the check of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gje_world.beliefs.config import BeliefConfig, check_belief
from gje_world.methods import METHODS, Method, make_method, method_options
from gje_world.networks import Encoder
from gje_world.objectives.config import RESOLUTION, ObjectiveConfig, check_objective, keywords
from gje_world.options import ConfigError, given, option, require_at_least

CONTRAST = 0.8  # between views
COMPARED = ("diagonal", "low_rank", "mixture", "student_t")  # beliefs all of which are soon held against all
ANY_DIM = 64  # of an embedding whose options are checked before its dimension is known
SIZES = (
    *("dim", "projector_hidden", "hidden", "predictor_hidden"),
    *("prototypes", "decoder_width", "decoder_depth"),
)
WEIGHTS = ("invariance", "variance", "covariance", "redundancy", "patch_weight")
TEMPERATURES = ("temperature", "student_temperature", "teacher_temperature")


@dataclass
class MethodConfig:
    """The method of pretraining; null: its own default, where it has one."""

    name: str = option("gje", "set by the group: method=gje")
    dim: int | None = option(None, "dimension of the projection that the loss is in")
    projector_hidden: int | None = option(None, "width of the projector's hidden layers")
    hidden: int | None = option(None, "of gje: width of the predictor")
    predictor_hidden: int | None = option(None, "of simsiam: width of the predictor")
    temperature: float | None = option(None, "of simclr")
    momentum: float | None = option(None, "of byol and dino: of the moving average, at the start")
    invariance: float | None = option(None, "of vicreg: weight of the views' distance")
    variance: float | None = option(None, "of vicreg: weight of the variance term")
    covariance: float | None = option(None, "of vicreg: weight of the covariance term")
    redundancy: float | None = option(None, "of barlow_twins: weight of what is off the diagonal")
    prototypes: int | None = option(None, "of dino: outputs")
    student_temperature: float | None = option(None, "of dino")
    teacher_temperature: float | None = option(None, "of dino")
    mask_ratio: float | None = option(None, "of mae and masked_gje: share of the patches that is hidden")
    decoder_width: int | None = option(None, "of mae and masked_gje")
    decoder_depth: int | None = option(None, "of mae and masked_gje: layers of the decoder")
    patch_weight: float | None = option(None, "of masked_gje: weight of the GJE loss beside the pixels'")


def build_method(
    config: MethodConfig,
    objective: ObjectiveConfig,
    belief: BeliefConfig,
    encoder: Encoder,
    updates: int,
    chunk: int | None,
) -> Method:
    """The method that the three configurations tell of.

    Raises:
        ConfigError: there is no such method, objective or belief, or they do not go together.
    """
    if config.name not in METHODS:
        raise ConfigError(f"method={config.name} must be one of {', '.join(METHODS)}")
    check_bounds(config)
    options = given(config)
    takes = method_options(config.name)
    if "objective" not in takes:
        require_defaults(config, objective, belief)
    else:
        defaults = objective_defaults(config, objective, belief)
        made = check_objective(objective, belief, config.dim or ANY_DIM, **defaults)
        if made.contrast and config.name != "gje":
            raise ConfigError(
                f"objective.contrast={made.contrast} needs method=gje; got method={config.name}"
            )
        check_belief(belief, config.dim or ANY_DIM, directions=config.name == "gje")
        options |= {"objective": keywords(objective, belief, **defaults), "belief": given(belief)}
    try:
        return make_method(options.pop("name"), encoder, updates, chunk=chunk, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require_defaults(config: MethodConfig, objective: ObjectiveConfig, belief: BeliefConfig) -> None:
    """Refuses what is said of objective or belief where a method has neither.

    Raises:
        ConfigError: the first such option.
    """
    for group, asked, usual in (
        ("objective", objective, ObjectiveConfig()),
        ("belief", belief, BeliefConfig()),
    ):
        for name, value in given(asked).items():
            if value != getattr(usual, name):
                option = group if name == "name" else f"{group}.{name}"
                raise ConfigError(
                    f"{option}={value} needs method=gje or masked_gje; got method={config.name}"
                )


def objective_of(config: MethodConfig, objective: ObjectiveConfig, belief: BeliefConfig) -> dict[str, Any]:
    """Name and options of a method's objective, with what stands for those left open."""
    return keywords(objective, belief, **objective_defaults(config, objective, belief))


def objective_defaults(
    config: MethodConfig, objective: ObjectiveConfig, belief: BeliefConfig
) -> dict[str, float]:
    """Contrast and resolution between views, or patches, where the options leave them open."""
    kind = (belief.member or "diagonal") if belief.name == "ensemble" else belief.name
    plain = objective.name == "gje_conditional" and objective.fit != "moments"
    contrast = objective.contrast
    if contrast is None:
        fits = plain and not objective.beta and kind in COMPARED
        contrast = CONTRAST if config.name == "gje" and fits else 0.0
    return {"contrast": contrast, "resolution": RESOLUTION if contrast else 0.0}


def check_bounds(config: MethodConfig) -> None:
    """Refuses numbers that no method can have.

    Raises:
        ConfigError: the first one found, with its bounds.
    """
    require_at_least(1, config, *SIZES, prefix="method.")
    require_at_least(0, config, *WEIGHTS, prefix="method.")
    for name, value in given(config).items():
        if name in TEMPERATURES and not value > 0:
            raise ConfigError(f"method.{name}={value} must be above 0")
        if name in (*WEIGHTS, *TEMPERATURES) and value == math.inf:
            raise ConfigError(f"method.{name}={value} must be finite")
    if config.momentum is not None and not 0 <= config.momentum < 1:
        raise ConfigError(f"method.momentum={config.momentum} must be at least 0 and below 1")
    if config.mask_ratio is not None and not 0 < config.mask_ratio < 1:
        raise ConfigError(f"method.mask_ratio={config.mask_ratio} must be above 0 and below 1")
