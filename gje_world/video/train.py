"""Training a video model: from options and clips to a run that is measured, goes on and reports."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from gje_world.data.clips import Clips
from gje_world.data.sources import open_clips
from gje_world.networks import make_encoder
from gje_world.networks.decoder import Decoder
from gje_world.objectives import make_objective
from gje_world.objectives.config import keywords
from gje_world.options import ConfigError, given, plain_value
from gje_world.plots.video_report import save_gallery, write_video_report
from gje_world.pretrained import load_encoder
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.engine import CHANGEABLE as ENGINE_CHANGEABLE
from gje_world.training.engine import Engine
from gje_world.training.origin import origin_of
from gje_world.training.ranks import make_fabric, open_run, silence
from gje_world.training.run_directory import RunDirectory
from gje_world.training.schedules import phases
from gje_world.training.signals import Stop, stop_on_signals
from gje_world.video.config import VideoConfig, check, check_share, run_path, split_clips
from gje_world.video.embedded import learning_batches
from gje_world.video.evaluation import VideoEvaluation
from gje_world.video.exported import save_video_model
from gje_world.video.learner import VideoLearner
from gje_world.video_model import VideoModel

# What may differ when a run goes on: none of it changes what has been learnt so far, and of which clips
# is told in clips.json.
CHANGEABLE = (*ENGINE_CHANGEABLE, "run_dir", "data.path", "data.cache", "evaluation")
CENTRING_CLIPS = 256  # windows that set the encoder's and the decoder's mean frame


def train(config: VideoConfig) -> int:
    """Train as `config` says, or go on with the run in its directory; the exit status.

    Raises:
        ConfigError: an option cannot work. No run directory has been made then.
        ClipsError, PretrainedError: the clips or the encoder cannot be had; likewise.
        RunDirectoryError, CheckpointError: the run directory cannot be used, or holds another run.
        NonFiniteError: a loss is NaN or infinite.
    """
    check(config)
    e = config.engine
    set_threads(e.threads)
    keep_freed_memory()
    fabric = make_fabric(e.device, e.devices, e.nodes, e.precision)
    fabric.launch()
    silence(fabric)
    check_share(config, fabric.world_size)
    with fabric.rank_zero_first():
        clips = open_clips(config.data)
    seen, held_out = split_clips(config, clips)
    if (short := clips.episodes - seen.episodes - held_out.episodes) > 0 and fabric.is_global_zero:
        print(f"left out as too short for a window: {short} of {clips.episodes} clips", file=sys.stderr)
    learner = make_learner(config, seen)
    with (
        open_run(
            fabric,
            run_path(config),
            plain_value(config),
            changeable=CHANGEABLE,
            sources={"clips": clips.description(pixels=config.data.source != "world")},
            defaults=plain_value(VideoConfig()),
        ) as run,
        stop_on_signals() as stop,
    ):
        return 0 if learn(config, learner, (seen, held_out), run, fabric, stop) else stop.status


def make_learner(config: VideoConfig, clips: Clips) -> VideoLearner:
    """A new learner for `clips`, centred on them.

    Raises:
        ConfigError: its parts do not fit together, or the clips.
        PretrainedError: there is no whole encoder in `encoder.path`.
    """
    torch.manual_seed(config.seed)
    c, stack, (channels, side, _) = config.encoder, config.frame_stack, clips.frame_shape
    belief = given(config.belief)
    try:
        if c.path is None:
            options = {"width": c.width} if c.name in ("conv", "keypoints") else {}
            options |= {"hidden": c.hidden} if c.hidden else {}
            encoder = make_encoder(c.name, stack * channels, c.dim, side, **options)
        else:
            encoder = load_encoder(c.path)
            if encoder.channels != stack * channels or encoder.image_size != side:
                raise ConfigError(
                    f"encoder.path={c.path} takes {encoder.channels} channels of {encoder.image_size} pixels;"
                    f" frame_stack={stack} and data.image_size={side} give {stack * channels} of {side}"
                )
        model = VideoModel(
            encoder,
            config.predictor,
            clips.action_dim * config.data.stride,
            belief.pop("name"),
            frame_stack=stack,
            frozen=c.frozen,
            **belief,
        )
        objective = make_objective(dim=model.dim, **keywords(config.objective, config.belief))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    decoder = Decoder(model.dim, channels, side, config.decoder_width)
    some = clips.sample(np.random.default_rng(config.seed), CENTRING_CLIPS, stack, config.data.stride).frames
    if c.path is None or c.frozen:  # one that learns on from elsewhere sees what it has always seen
        model.centre_on(some)
    decoder.centre_on(some[:, -1])
    return VideoLearner(model, objective, decoder, config.learning, config.engine.updates)


def learn(
    config: VideoConfig,
    learner: VideoLearner,
    clips: tuple[Clips, Clips],
    run: RunDirectory,
    fabric: Fabric,
    stop: Stop,
) -> bool:
    """Train, evaluate and report, on `clips` to learn from and held out; whether it got to the end."""
    c, (seen, held_out), ranks = config.learning, clips, fabric.world_size
    share = c.batch_size // ranks
    learner.model.autocast = fabric.autocast  # measured at the precision that it learns at
    batches = learning_batches(
        seen,
        learner.model,
        seed=config.seed * ranks + fabric.global_rank,
        batch=share,
        length=config.predictor.history + c.horizon,
        stride=config.data.stride,
        together=c.windows_per_clip,
        phases=(
            learner.resting * config.engine.accumulate,
            (config.engine.updates - learner.resting) * config.engine.accumulate,
        ),
        check=(stop if ranks == 1 else Stop()).check,  # several leave together, at an update
    )
    kept, measured = None, held_out
    if config.evaluation.kept and held_out.episodes > 1:
        kept, measured = held_out.split(0.5)
    evaluation = VideoEvaluation(
        learner.model, learner.decoder, seen, measured, config.evaluation, config.data.stride, kept
    )

    def evaluate(update: int, stop: Stop) -> dict[str, Any]:
        row, gallery = evaluation.measure(stop.check)
        return row | save_gallery(run.path, update, gallery)

    engine = Engine(
        learner,
        batches,
        config=config.engine,
        fabric=fabric,
        run=run,
        optimizer=lambda groups: torch.optim.Adam(groups),
        schedule=phases(learner.resting, config.engine.updates - learner.resting, warm_up=c.warm_up),
        seed=config.seed,
        evaluate=evaluate,
        report=lambda running: write_video_report(run.path, running=running),
        samples=(share * ranks, "clips"),
    )
    warning = "warning: too few clips are held out to calibrate beliefs on some of them\n"
    engine.announce(
        f"{len(seen):,} frames learnt from; clips: {seen.episodes} learnt from, {measured.episodes} measured "
        f"on, {0 if kept is None else kept.episodes} that beliefs are calibrated on\n"
        + (warning if config.evaluation.kept and kept is None else "")
        + f"device={fabric.device} precision={fabric.strategy.precision.precision}"
    )
    finished = engine.train(stop)
    if finished and fabric.is_global_zero:
        save_video_model(learner.model, learner.decoder, run.path / "model", provenance(config, seen, run))
        print(f"report: {run.report}\nmodel: {run.path / 'model'}")
    return finished


def provenance(config: VideoConfig, seen: Clips, run: RunDirectory) -> dict[str, Any]:
    """Where a model comes from, in plain values."""
    data = {"name": config.data.source, "path": config.data.path, "frames": len(seen)}
    if config.data.source == "world":
        data["world"] = config.data.world
    return {
        "run": str(run.path),
        "objective": given(config.objective),
        "data": data,
        "updates": config.engine.updates,
        "seed": config.seed,
        **origin_of(run.path),
    }
