"""What a run can be told: the schema of `gje-train`, its defaults, and the checks before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from agents.agent import AgentConfig, EncoderMode
from agents.planner import PlannerConfig, Risk
from gje_world.beliefs.config import BeliefConfig, check_belief
from gje_world.objectives.config import ObjectiveConfig, check_world_objective
from gje_world.options import (
    ConfigError,
    group,
    option,
    require_above,
    require_at_least,
    require_groups,
    require_seed,
    value_of,
)
from gje_world.training.devices import Precision
from gje_world.world_model import WorldModelConfig

DEFAULT_BELIEF = "student_t"  # errors in many dimensions share their scale, which a Gaussian cannot tell


class Render(Enum):
    fast = "fast"
    faithful = "faithful"


@dataclass
class EnvConfig:
    """How the environment is seen and acted on."""

    action_repeat: int | None = option(None, "env frames an action is held; null: PlaNet's for the task")
    time_limit: int | None = option(None, "env frames after which an episode is cut; null: the task's own")
    frame_stack: int = option(3, "frames in an observation")
    image_size: int = option(64, "height and width in pixels, a multiple of 16")
    render: Render = option(Render.fast, "fast: no shadows; faithful: as dm_control draws")


@dataclass
class EvaluationConfig:
    """Evaluation without exploration, on episodes with fixed seeds."""

    every: int = option(20_000, "env frames between evaluations")
    episodes: int = option(10, "episodes of an evaluation")


@dataclass
class TrainConfig:
    """Options of `gje-train`. All counts of steps and frames are env frames unless they say otherwise."""

    task: str = option("dmc/cartpole-swingup", "dmc/<domain>-<task> or gym/<id>")
    steps: int = option(100_000, "env frames of the whole run; an action counts as env.action_repeat of them")
    seed: int = option(1, "of everything random in the run")
    run_dir: str | None = option(None, "null: runs/<task>/<objective>[-<belief>][-<mode>_encoder]-seed<seed>")
    encoder: str | None = option(None, "folder of a pretrained encoder; null: a new one")
    encoder_mode: EncoderMode = option(
        EncoderMode.finetune, "frozen; finetune: slowly, at agent.finetune_lr; init: as a new one learns"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: Precision = option(Precision.auto, "of the networks; auto: bfloat16 where the hardware has it")
    threads: int | None = option(None, "CPU threads; null: all cores")
    prefill: int = option(4_000, "env frames of random actions before learning begins")
    batch_size: int = option(128, "sequences an update learns from")
    updates_per_step: int = option(1, "gradient steps an agent step")
    replay_capacity: int | None = option(
        None, "frames kept, one more an episode than it has agent steps; null: all of a run of whole episodes"
    )
    log_every: int = option(25, "agent steps between rows of training metrics")
    checkpoint_every: int = option(5_000, "env frames between checkpoints")
    env: EnvConfig = group(EnvConfig)
    world: WorldModelConfig = group(WorldModelConfig)
    objective: ObjectiveConfig = group(ObjectiveConfig)
    belief: BeliefConfig = group(BeliefConfig, name=DEFAULT_BELIEF)
    agent: AgentConfig = group(AgentConfig)
    planner: PlannerConfig = group(PlannerConfig)
    evaluation: EvaluationConfig = group(EvaluationConfig)


# What may differ when a run goes on: none of it changes what has been learnt so far.
CHANGEABLE = ("steps", "run_dir", "device", "threads", "log_every", "evaluation")

# Smallest sensible value of each number that is not free to be zero or below.
_AT_LEAST_ONE = (
    "steps", "batch_size", "updates_per_step", "replay_capacity", "log_every", "checkpoint_every", "threads",
    "env.action_repeat", "env.time_limit", "env.frame_stack", "env.image_size", "world.dim", "world.hidden",
    "world.encoder_width", "agent.hidden", "agent.critics", "agent.horizon", "planner.horizon",
    "planner.candidates", "planner.elites", "planner.iterations", "planner.particles", "evaluation.every",
    "evaluation.episodes", "belief.components", "belief.transforms",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "prefill", "agent.shift", "agent.entropy", "agent.weights.world", "agent.weights.reward",
    "agent.weights.value", "planner.policy_candidates", "planner.temperature",
)  # fmt: skip
_POSITIVE = (
    "agent.lr", "agent.encoder_lr", "agent.finetune_lr", "agent.grad_clip", "agent.target_rate",
    "agent.temporal_decay", "planner.min_std", "planner.max_std", "planner.cvar_share", "belief.df",
)  # fmt: skip


def run_path(config: TrainConfig) -> Path:
    """The run directory asked for, or the default one of this task, objective, belief and seed."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    words = [config.objective.name]
    if config.belief.name not in (DEFAULT_BELIEF, "point"):
        words.append(config.belief.name)
    if config.encoder is not None:
        words.append(f"{config.encoder_mode.value}_encoder")
    words.append(f"seed{config.seed}")
    return Path("runs") / config.task.replace("/", "-") / "-".join(words)


def check(config: TrainConfig) -> None:
    """Refuses what no environment could make right.

    Raises:
        ConfigError: the first option found wrong.
    """
    require_groups(config)
    require_at_least(1, config, *_AT_LEAST_ONE)
    require_at_least(0, config, *_AT_LEAST_ZERO)
    require_above(0, config, *_POSITIVE)
    _require(math.isfinite(config.planner.kappa), "planner.kappa", config.planner.kappa, "finite")
    require_at_least(2, config, "belief.members")
    require_at_least(1 if config.belief.name == "low_rank" else 0, config, "belief.rank")
    agent, planner, size = config.agent, config.planner, config.env.image_size
    _require(
        size % 16 == 0 or config.encoder is not None,
        "env.image_size",
        size,
        "a multiple of 16, which the encoder halves four times",
    )
    _require(config.encoder != "", "encoder", "", "a folder, or null")
    mode = config.encoder_mode
    if config.encoder is None and mode is not EncoderMode.finetune:
        raise ConfigError(f"encoder_mode={mode.value} needs encoder=…, the folder of a pretrained one")
    _require(0 <= agent.unshifted <= 1, "agent.unshifted", agent.unshifted, "between 0 and 1")
    _require(agent.bins >= 2, "agent.bins", agent.bins, "at least 2")
    _require(agent.shift < size, "agent.shift", agent.shift, f"below env.image_size={size}")
    _require(
        agent.discount is None or 0 < agent.discount < 1,
        "agent.discount",
        agent.discount,
        "between 0 and 1, or null",
    )
    _require(agent.target_rate <= 1, "agent.target_rate", agent.target_rate, "at most 1")
    _require(
        planner.policy_candidates < planner.candidates,
        "planner.policy_candidates",
        planner.policy_candidates,
        f"below planner.candidates={planner.candidates}",
    )
    _require(
        planner.elites <= planner.candidates,
        "planner.elites",
        planner.elites,
        f"at most planner.candidates={planner.candidates}",
    )
    _require(
        planner.min_std <= planner.max_std,
        "planner.min_std",
        planner.min_std,
        f"at most planner.max_std={planner.max_std}",
    )
    _require(planner.cvar_share <= 1, "planner.cvar_share", planner.cvar_share, "at most 1")
    risky = planner.risk is not Risk.mean
    words = f"at least 2 where planner.risk={planner.risk.value}: one future has no spread"
    _require(not risky or planner.particles >= 2, "planner.particles", planner.particles, words)
    certain = risky and config.belief.name == "point"
    words = "mean with belief=point, whose futures are all the same"
    _require(not certain, "planner.risk", planner.risk.value, words)
    words = "other than 0 where planner.risk=mean_std; below 0 avoids uncertain futures"
    _require(planner.risk is not Risk.mean_std or planner.kappa != 0, "planner.kappa", planner.kappa, words)
    _require(config.prefill <= config.steps, "prefill", config.prefill, f"at most steps={config.steps}")
    shortest = 2 * agent.horizon + config.env.frame_stack
    _require(
        config.replay_capacity is None or config.replay_capacity >= shortest,
        "replay_capacity",
        config.replay_capacity,
        f"at least {shortest}, so that sequences of agent.horizon={agent.horizon} fit, or null",
    )
    _require(config.run_dir != "", "run_dir", "", "a path, or null")
    require_seed(config)
    _check_objective(config)


def _check_objective(config: TrainConfig) -> None:
    """Refuses objectives and beliefs that are unknown or do not fit together."""
    belief, dim = config.belief.name, config.world.dim
    objective = check_world_objective(config.objective, config.belief, dim)
    _require(not objective.contrast, "objective.contrast", objective.contrast, "0 in an agent's world model")
    check_belief(config.belief, dim)
    if config.world.simplicial:
        _require(belief == "point", "belief", belief, "point where world.simplicial=true")
        _require(dim % 8 == 0, "world.dim", dim, "a multiple of 8 where world.simplicial=true")
    embeddings = config.batch_size * (config.agent.horizon + 1)
    if objective.marginal_weight > 0 and objective.marginal_name == "gaussian_kl" and embeddings <= dim:
        raise ConfigError(
            f"batch_size={config.batch_size} gives {embeddings} embeddings an update; "
            f"the marginal term needs more than world.dim={dim}"
        )


def check_against_episode(config: TrainConfig, episode_steps: int | None) -> None:
    """Refuses horizons that no episode of `episode_steps` agent steps could hold.

    Raises:
        ConfigError: a horizon is longer than an episode.
    """
    if episode_steps is None:
        raise ConfigError(
            f"env.time_limit must be set: episodes of task={config.task} have no limit of their own, and an "
            "evaluation might never end"
        )
    for name in ("agent.horizon", "planner.horizon"):
        _require(
            value_of(config, name) <= episode_steps,
            name,
            value_of(config, name),
            f"at most the {episode_steps} agent steps of an episode of {config.task}",
        )


def check_prefill(config: TrainConfig, action_repeat: int) -> None:
    """Refuses a prefill that leaves nothing to learn from when learning begins.

    Raises:
        ConfigError: it is shorter than a training sequence.
    """
    least = config.agent.horizon * action_repeat
    right = f"at least {least} env frames, the {config.agent.horizon} agent steps of agent.horizon"
    _require(config.prefill >= least, "prefill", config.prefill, right)


def _require(holds: bool, name: str, value: Any, right: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value} must be {right}")
