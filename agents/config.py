"""What a run can be told: the schema of `gje-train`, its defaults, and the checks before any work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path

from agents.agent import AgentConfig
from agents.planner import PlannerConfig
from gje_world.beliefs import HEADS
from gje_world.objectives import OBJECTIVES
from gje_world.world_model import WorldModelConfig


class ConfigError(ValueError):
    """An option has a value that cannot work; the message names the option, the value, and what would do."""


class Precision(Enum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Render(Enum):
    fast = "fast"
    faithful = "faithful"


@dataclass
class EnvConfig:
    """How the environment is seen and acted on."""

    action_repeat: int | None = None  # env frames an action is held; null: PlaNet's for the task
    frame_stack: int = 3
    image_size: int = 64  # pixels, height and width
    render: Render = Render.fast


@dataclass
class ObjectiveConfig:
    """The world model's objective (config group `objective`)."""

    name: str = "gje_conditional"
    marginal_weight: float = 1.0
    stop_gradient: bool = False
    resolution: float | None = 0.35  # finest error of a prediction that counts, in units of the embedding


@dataclass
class BeliefConfig:
    """The world model's belief (config group `belief`)."""

    name: str = "diagonal"


@dataclass
class EvaluationConfig:
    """Evaluation without exploration, on episodes with fixed seeds."""

    every: int = 20_000  # env frames
    episodes: int = 10


@dataclass
class TrainConfig:
    """Options of `gje-train`. All counts of steps and frames are env frames unless they say otherwise."""

    task: str = "dmc/cartpole-swingup"
    steps: int = 100_000  # env frames
    seed: int = 1
    run_dir: str | None = None  # null: runs/<task>/<objective>-seed<seed>
    device: str = "auto"
    precision: Precision = Precision.auto
    threads: int | None = None  # CPU threads; null: all cores
    prefill: int = 4_000  # env frames of random actions before learning begins
    batch_size: int = 128  # sequences
    updates_per_step: int = 1  # gradient steps an agent step
    replay_capacity: int | None = None  # frames kept, in agent steps; null: the whole run
    log_every: int = 25  # agent steps
    checkpoint_every: int = 5_000  # env frames
    env: EnvConfig = field(default_factory=EnvConfig)
    world: WorldModelConfig = field(default_factory=WorldModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    belief: BeliefConfig = field(default_factory=BeliefConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


# What may differ when a run goes on: none of it changes what has been learnt so far.
CHANGEABLE = ("steps", "run_dir", "device", "threads", "checkpoint_every", "log_every", "evaluation")

# Smallest sensible value of each number that is not free to be zero or below.
_AT_LEAST_ONE = (
    "steps", "batch_size", "updates_per_step", "replay_capacity", "log_every", "checkpoint_every", "threads",
    "env.action_repeat", "env.frame_stack", "env.image_size", "world.dim", "world.hidden",
    "world.encoder_width", "agent.hidden", "agent.critics", "agent.horizon", "planner.horizon",
    "planner.candidates", "planner.elites", "planner.iterations", "planner.particles", "evaluation.every",
    "evaluation.episodes",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "seed", "prefill", "agent.shift", "agent.entropy", "agent.weights.world", "agent.weights.reward",
    "agent.weights.value", "objective.marginal_weight", "planner.policy_candidates", "planner.temperature",
)  # fmt: skip
_POSITIVE = (
    "agent.lr", "agent.encoder_lr", "agent.grad_clip", "agent.target_rate", "agent.temporal_decay",
    "planner.min_std", "planner.max_std", "planner.cvar_share",
)  # fmt: skip


def run_path(config: TrainConfig) -> Path:
    """The run directory asked for, or the default one of this task, objective and seed."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    return Path("runs") / config.task.replace("/", "-") / f"{config.objective.name}-seed{config.seed}"


def option(config: TrainConfig, name: str):
    """Value of a dotted option."""
    value = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def plain(config) -> dict:
    """The configuration as nested plain values."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {
        name: plain(value) if is_dataclass(value) else value.value if isinstance(value, Enum) else value
        for name, value in values.items()
    }


def check(config: TrainConfig) -> None:
    """Refuses what no environment could make right.

    Raises:
        ConfigError: the first option found wrong.
    """
    for names, low, words in (
        (_AT_LEAST_ONE, 1, "at least 1"),
        (_AT_LEAST_ZERO, 0, "at least 0"),
        (_POSITIVE, 1e-12, "above 0"),
    ):
        for name in names:
            value = option(config, name)
            if value is not None and not value >= low:
                raise ConfigError(f"{name}={value} must be {words}")
    planner = config.planner
    _require(
        config.objective.name in OBJECTIVES,
        "objective.name",
        config.objective.name,
        f"one of {', '.join(OBJECTIVES)}",
    )
    _require(config.belief.name in HEADS, "belief.name", config.belief.name, f"one of {', '.join(HEADS)}")
    if OBJECTIVES[config.objective.name].needs_density and config.belief.name == "point":
        raise ConfigError(
            f"belief=point has no density, which objective={config.objective.name} needs; use belief=diagonal"
        )
    if config.world.simplicial:
        _require(
            config.belief.name == "point", "belief", config.belief.name, "point where world.simplicial=true"
        )
        _require(
            config.world.dim % 8 == 0,
            "world.dim",
            config.world.dim,
            "a multiple of 8 where world.simplicial=true",
        )
    elif (
        config.objective.marginal_weight > 0
        and config.batch_size * (config.agent.horizon + 1) <= config.world.dim
    ):
        raise ConfigError(
            f"batch_size={config.batch_size} gives {config.batch_size * (config.agent.horizon + 1)} embeddings an "
            f"update: the marginal term needs more than world.dim={config.world.dim}"
        )
    _require(config.env.image_size % 16 == 0, "env.image_size", config.env.image_size, "a multiple of 16")
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
    discount = config.agent.discount
    _require(discount is None or 0 < discount < 1, "agent.discount", discount, "between 0 and 1, or null")
    _require(config.agent.target_rate <= 1, "agent.target_rate", config.agent.target_rate, "at most 1")


def check_against_episode(config: TrainConfig, episode_steps: int | None) -> None:
    """Refuses horizons that no episode of `episode_steps` agent steps could hold.

    Raises:
        ConfigError: a horizon is longer than an episode.
    """
    if episode_steps is None:
        return
    for name in ("agent.horizon", "planner.horizon"):
        _require(
            option(config, name) <= episode_steps,
            name,
            option(config, name),
            f"at most the {episode_steps} agent steps of an episode of {config.task}",
        )


def _require(holds: bool, name: str, value, right: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value} must be {right}")
