"""`gje-train`: train an agent from pixels, or go on with a run that was stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable

import gymnasium

from agents.building import make_env
from agents.command import fail, run_command
from agents.config import CHANGEABLE, TrainConfig, check, check_against_episode, run_path
from agents.online import NonFiniteError, Online
from gje_world.options import plain_value
from gje_world.training.disk import format_bytes
from gje_world.training.run_directory import RunDirectory
from gje_world.training.signals import stop_on_signals

ABOUT = """
gje-train: train an agent from pixels by planning over Gaussian beliefs.

The same command on the same run directory goes on where it stopped. Results stand in the run directory:
report.html, metrics.jsonl, tensorboard/, checkpoints/, films/, plots/.

  gje-train                                             cartpole-swingup, 100,000 env frames
  gje-train task=dmc/walker-walk steps=500_000 seed=1   any task of the DM Control suite, or gym/<id>
  gje-train preset=debug                                every part once, in under a minute
  gje-train objective=consistency                       the deterministic ablation
"""


def train_agent(
    config: TrainConfig, make: Callable[[], gymnasium.Env] | None = None, run_dir: str | None = None
) -> RunDirectory:
    """Train as `config` says, or go on with the run in its directory, until done, Ctrl-C or SIGTERM.

    Arguments:
        config: options; `TrainConfig()` for the defaults.
        make: makes a fresh Gymnasium environment that draws `rgb_array`, to be used in place of
            `config.task`, which then only names the run.
        run_dir: short for `config.run_dir`.

    Returns the run directory, closed.

    Raises:
        ConfigError, RunDirectoryError, CheckpointError, DiskSpaceError: before any work starts.
        NonFiniteError: a reward or a loss is NaN or infinite.
    """
    if run_dir is not None:
        config.run_dir = run_dir
    check(config)
    env = make_env(config, make)
    check_against_episode(config, env.get_wrapper_attr("max_episode_steps"))
    path = run_path(config)
    with (
        RunDirectory.open(path, plain_value(config), changeable=CHANGEABLE) as run,
        stop_on_signals() as stop,
    ):
        online = Online(config, run, env, lambda: make_env(config, make))
        device, precision = online.agent.device, str(online.agent.autocast).removeprefix("torch.")
        disk = format_bytes(online.replay.bytes)
        print(
            f"{config.task} on {device} in {precision}; replay takes {disk}; run_dir={path}", file=sys.stderr
        )
        online.train(stop)
    return run


def train(config: TrainConfig) -> int:
    """The command's work; its exit status."""
    try:
        run = train_agent(config)
    except NonFiniteError as error:
        fail(str(error))
        return 1
    print(f"report: {run.report}")
    return 0


def main() -> None:
    """Entry point of `gje-train`."""
    sys.exit(run_command("train", TrainConfig, train, ABOUT))


if __name__ == "__main__":
    main()
