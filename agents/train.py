"""`gje-train`: train an agent from pixels, or go on with a run that was stopped."""

from __future__ import annotations

import sys

from agents.command import run_command
from agents.config import CHANGEABLE, TrainConfig, check, plain, run_path


def train(config: TrainConfig) -> int:
    """Train as `config` says; the exit status."""
    from agents.online import NonFiniteLossError, Online
    from gje_world.training.run_directory import RunDirectory
    from gje_world.training.signals import stop_on_signals

    check(config)
    path = run_path(config)
    with RunDirectory.open(path, plain(config), changeable=CHANGEABLE) as run, stop_on_signals() as stop:
        try:
            Online(config, run).train(stop)
        except NonFiniteLossError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"report: {run.report}")
    return 0


def main() -> None:
    """Entry point of `gje-train`."""
    sys.exit(run_command("train", TrainConfig, train))


if __name__ == "__main__":
    main()
