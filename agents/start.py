"""From options to a run: checks first, cheap ones before dear ones, then the run directory, then training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium

from agents.building import choose_device, keep_encoder, make_env, pretrained_encoder
from agents.config import (
    CHANGEABLE,
    ConfigError,
    TrainConfig,
    check,
    check_against_episode,
    check_prefill,
    run_path,
)
from agents.experience import replay_size
from agents.online import Online
from agents.replay import Replay
from gje_world.options import plain_value
from gje_world.training.checkpoint import CheckpointStore, step_of
from gje_world.training.disk import format_bytes
from gje_world.training.run_directory import RunDirectory
from gje_world.training.signals import stop_on_signals


def train_agent(config: TrainConfig, make: Callable[[], gymnasium.Env] | None = None) -> RunDirectory:
    """Train as `config` says, or go on with the run in its directory, until done, Ctrl-C or SIGTERM.

    Arguments:
        config: options; `TrainConfig()` for the defaults.
        make: makes a fresh Gymnasium environment that draws `rgb_array`, to be used in place of
            `config.task`, which then only names the run. Called once for training and once for each
            evaluation episode.

    Returns the run directory, closed.

    Raises:
        ConfigError: an option cannot work. Nothing has been written then.
        DiskSpaceError: the disk has no room for the replay. Nothing has been written then.
        RunDirectoryError, CheckpointError, ReplayError: the run directory cannot be used, or holds
            another run.
        NonFiniteError: a reward or a loss is NaN or infinite.
    """
    return train_until_stopped(config, make)[0]


def train_until_stopped(
    config: TrainConfig, make: Callable[[], gymnasium.Env] | None = None
) -> tuple[RunDirectory, int]:
    """As `train_agent`; the run directory, and the exit status of a command that does this alone."""
    check(config)
    if make is not None and not callable(make):
        raise ConfigError(f"make={make} must be a function that makes an environment, as lambda: MyEnv()")
    if make is not None and config.task.startswith(("dmc/", "gym/")):
        raise ConfigError(
            f"task={config.task} names another environment: where make is given it must be a name of your "
            "own, such as my-env"
        )
    choose_device(config)
    env = make_env(config, make)

    def another() -> gymnasium.Env:
        other = make_env(config, make)
        if other.unwrapped is env.unwrapped:
            raise ConfigError("make must make a new environment each time it is called")
        return other

    if make is not None:
        another().close()
    check_against_episode(config, env.get_wrapper_attr("max_episode_steps"))
    repeat = env.get_wrapper_attr("action_repeat")
    check_prefill(config, repeat)
    path, size = run_path(config), replay_size(config, env)
    encoder = pretrained_encoder(config, path)
    try:
        require_not_beyond(config, path, repeat)
        Replay.require_room(path / "replay", size.capacity + size.slack, size.frame_shape, size.action_dim)
    except OSError as error:
        raise ConfigError(f"run_dir={path} cannot be used: {error.strerror}; choose another") from error
    with (
        RunDirectory.open(
            path, plain_value(config), changeable=CHANGEABLE, defaults=plain_value(TrainConfig())
        ) as run,
        stop_on_signals() as stop,
    ):
        keep_encoder(config, encoder, run.path)
        online = Online(config, run, env, another, encoder)
        print(announcement(online), file=sys.stderr)
        try:
            finished = online.train(stop)
        finally:
            online.close()
    return run, 0 if finished else stop.status


def require_not_beyond(config: TrainConfig, path: Path, repeat: int) -> None:
    """Refuses to end the run in `path` before where it is; its last step may have gone over the end.

    Raises:
        ConfigError: its newest checkpoint is of a later step.
    """
    checkpoints = CheckpointStore(path / "checkpoints").paths()
    if checkpoints and (newest := step_of(checkpoints[-1])) >= config.steps + repeat:
        raise ConfigError(
            f"steps={config.steps} must be at least the {newest:,} env frames of run_dir={path}"
        )


def announcement(online: Online) -> str:
    """What is about to run, where, and how much disk it takes, in three lines."""
    config, run = online.config, online.run
    precision = str(online.agent.autocast).removeprefix("torch.")
    begin = "a new run"
    if online.resumed_from is not None:
        begin = f"going on at {online.step:,} of {config.steps:,} frames from {online.resumed_from}"
    return (
        f"task={config.task} device={online.agent.device} precision={precision} threads={online.threads}\n"
        f"replay takes {format_bytes(online.replay.bytes)} of disk\n"
        f"run_dir={run.path}: {begin}"
    )
