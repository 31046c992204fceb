"""What a video run can be told: the schema of `gje-video train`, its defaults, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gje_world.beliefs.config import BeliefConfig, check_belief
from gje_world.data.clips import Clips
from gje_world.data.sources import DataConfig, check_data, require_apart
from gje_world.networks import ENCODERS
from gje_world.objectives.config import ObjectiveConfig, check_world_objective
from gje_world.options import (
    ConfigError,
    group,
    option,
    require_above,
    require_at_least,
    require_groups,
    require_seed,
    require_shares,
    value_of,
)
from gje_world.pretrained import load_encoder
from gje_world.training.engine import EngineConfig
from gje_world.video.evaluation import VideoEvaluationConfig
from gje_world.video.learner import LearningConfig
from gje_world.video_model import PREDICTORS, PredictorConfig


@dataclass
class EncoderConfig:
    """What embeds observations."""

    name: str = option("conv", f"{', '.join(ENCODERS)}")
    dim: int = option(16, "embedding dimension D; of a loaded encoder, its own")
    width: int = option(16, "of conv and keypoints: channels of their first convolutions")
    hidden: int | None = option(None, "of keypoints: width of a perceptron beside the places; null: none")
    path: str | None = option(None, "folder of a pretrained encoder to begin with, or stay with")
    frozen: bool = option(False, "leave the pretrained encoder as it is")


@dataclass
class VideoConfig:
    """Options of `gje-video train`."""

    seed: int = option(1, "of everything random in the run")
    run_dir: str | None = option(None, "where all is written; null: runs/video/<data>-<belief>-seed<seed>")
    frame_stack: int = option(3, "frames in an observation, so that speeds can be seen")
    decoder_width: int = option(16, "channels of the decoder's last hidden images")
    data: DataConfig = group(DataConfig)
    encoder: EncoderConfig = group(EncoderConfig)
    predictor: PredictorConfig = group(PredictorConfig)
    belief: BeliefConfig = group(BeliefConfig, name="mixture")
    objective: ObjectiveConfig = group(ObjectiveConfig)
    learning: LearningConfig = group(LearningConfig)
    evaluation: VideoEvaluationConfig = group(VideoEvaluationConfig)
    engine: EngineConfig = group(EngineConfig)


def run_path(config: VideoConfig) -> Path:
    """The run directory asked for, or the default one of this data, belief and seed."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    data = config.data
    source = data.world if data.source == "world" else Path(data.path or "").stem
    return Path("runs/video") / f"{source}-{config.belief.name}-seed{config.seed}"


def check(config: VideoConfig) -> None:
    """Refuses what no clips could make right.

    Raises:
        ConfigError: the first option found wrong.
    """
    require_groups(config)
    require_seed(config)
    config.engine.check()
    check_data(config.data)
    require_apart(config.data, "run_dir", run_path(config))
    least = {
        "frame_stack": 1, "decoder_width": 1, "encoder.dim": 1, "encoder.width": 1, "encoder.hidden": 1,
        "predictor.history": 2, "predictor.hidden": 1, "predictor.layers": 1, "predictor.heads": 1,
        "learning.batch_size": 2, "learning.windows_per_clip": 1, "learning.horizon": 1,
        "learning.open_loop": 0, "learning.particles": 1, "learning.warm_up": 0,
        "learning.views": 0, "learning.noise": 0, "learning.shift": 0,
        "evaluation.clips": 2, "evaluation.horizon": 1, "evaluation.particles": 2,
        "evaluation.coverage": 2, "evaluation.coverage_far": 0, "evaluation.kept": 0,
    }  # fmt: skip
    for name, low in least.items():
        require_at_least(low, config, name)
    require_above(0, config.learning, "lr", "encoder_lr", "decoder_lr", "finest", prefix="learning.")
    for name in ("settle", "within_clip"):
        if not 0 <= getattr(config.learning, name) < 1:
            value = getattr(config.learning, name)
            raise ConfigError(f"learning.{name}={value} must be at least 0 and below 1")
    settle, updates = config.learning.settle, config.engine.updates
    if not config.encoder.frozen and round(settle * updates) == updates:
        raise ConfigError(
            f"learning.settle={settle} leaves an encoder none of engine.updates={updates} to learn in"
        )
    if config.predictor.name not in PREDICTORS:
        raise ConfigError(f"predictor={config.predictor.name} must be one of {', '.join(PREDICTORS)}")
    if config.predictor.name == "transformer" and config.predictor.hidden % config.predictor.heads:
        raise ConfigError(
            f"predictor.hidden={config.predictor.hidden} must be a multiple of "
            f"predictor.heads={config.predictor.heads}"
        )
    if config.encoder.path is None and config.encoder.name not in ENCODERS:
        raise ConfigError(f"encoder.name={config.encoder.name} must be one of {', '.join(ENCODERS)}")
    if config.encoder.hidden and config.encoder.path is None and config.encoder.name != "keypoints":
        raise ConfigError(
            f"encoder.hidden={config.encoder.hidden} is of keypoints; give encoder.hidden=null beside "
            f"encoder.name={config.encoder.name}"
        )
    if config.encoder.frozen and config.encoder.path is None:
        raise ConfigError("encoder.frozen=true must have a pretrained encoder in encoder.path")
    if config.data.image_size % 16:
        raise ConfigError(f"data.image_size={config.data.image_size} must be a multiple of 16")
    if config.learning.open_loop and config.learning.horizon < 2:
        raise ConfigError(
            f"learning.open_loop={config.learning.open_loop} needs learning.horizon=2 or more, to sample "
            f"futures along; got {config.learning.horizon}"
        )
    if config.learning.shift >= config.data.image_size:
        raise ConfigError(
            f"learning.shift={config.learning.shift} must be below data.image_size={config.data.image_size}"
        )
    path = config.encoder.path
    dim = config.encoder.dim if path is None else load_encoder(path).dim
    objective = check_world_objective(config.objective, config.belief, dim)
    if config.learning.open_loop and config.objective.fit == "composite":
        raise ConfigError(
            f"learning.open_loop={config.learning.open_loop} needs objective.fit=likelihood; got composite"
        )
    if config.learning.open_loop:
        try:
            objective.require_belief("pool")  # which beliefs along sampled futures are
        except ValueError as error:
            raise ConfigError(f"learning.open_loop={config.learning.open_loop} must be 0: {error}") from error
    if objective.contrast and (config.encoder.frozen or not round(settle * updates)):
        why = "encoder.frozen=true" if config.encoder.frozen else f"learning.settle={settle}"
        raise ConfigError(
            f"objective.contrast={objective.contrast} must be 0 with {why}: it is for an encoder that "
            "learns, and then rests"
        )
    check_belief(config.belief, dim)
    if config.belief.name == "point":
        raise ConfigError("belief=point has no density, by which futures are scored; use belief=diagonal")


def check_share(config: VideoConfig, ranks: int) -> None:
    """Refuses a batch that so many ranks cannot share equally.

    Raises:
        ConfigError: naming both.
    """
    batch, together = config.learning.batch_size, config.learning.windows_per_clip
    require_shares("learning.batch_size", batch, ranks)
    if (batch // ranks) % together:
        raise ConfigError(
            f"learning.windows_per_clip={together} must divide the {batch // ranks} windows that a process "
            f"takes of learning.batch_size={batch}"
        )


def split_clips(config: VideoConfig, clips: Clips) -> tuple[Clips, Clips]:
    """The clips to learn from and those held out: of each, such as its windows fit into.

    What is held out depends on nothing that may change when a run goes on, as `evaluation` may: else it could
    be measured on clips that it has learnt from.

    Raises:
        ConfigError: naming what a window needs and the longest clip there is.
    """
    before, stride = config.frame_stack - 1 + config.predictor.history, config.data.stride

    def require(part: Clips, which: str, *names: str) -> int:
        """Frames of the longest window of horizons so called, which a clip must have."""
        name = max(names, key=lambda name: value_of(config, name))
        frames = (before + value_of(config, name) - 1) * stride + 1
        if (longest := int(part.lengths.max(initial=0))) < frames:
            raise ConfigError(
                f"{name}={value_of(config, name)} needs clips of {frames} frames, with "
                f"frame_stack={config.frame_stack}, predictor.history={config.predictor.history} and "
                f"data.stride={stride}; {which} has {longest}"
            )
        return frames

    both = ("learning.horizon", "evaluation.horizon")
    require(clips, "the longest", *both)
    seen, held_out = clips.of_length(require(clips, "the longest", both[0])).split(config.data.held_out)
    require(seen, "the longest that is learnt from", *both)
    which = f"the longest that is held out (data.held_out={config.data.held_out})"
    return seen, held_out.of_length(require(held_out, which, both[1]))
