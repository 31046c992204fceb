"""`gje-train`: train an agent from pixels, or go on with a run that was stopped."""

from __future__ import annotations

import sys

from agents.config import TrainConfig
from agents.replay import ReplayError
from agents.start import train_until_stopped
from gje_world.command import fail, run_command
from gje_world.training.means import NonFiniteError

ABOUT = """
gje-train: train an agent from pixels by planning over Gaussian beliefs.

The same command on the same run directory goes on where it stopped. Results stand in the run directory:
report.html, metrics.jsonl, tensorboard/, checkpoints/, films/, plots/.

  gje-train                                             cartpole-swingup, 100,000 env frames
  gje-train task=dmc/walker-walk steps=500_000 seed=1   any task of the DM Control suite, or gym/<id>
  gje-train preset=debug                                every part once, in under a minute
  gje-train objective=consistency                       the deterministic ablation
  gje-train encoder=runs/pretrain/encoder               from a pretrained encoder, finetuned
"""


def train(config: TrainConfig) -> int:
    """The command's work; its exit status."""
    try:
        run, status = train_until_stopped(config)
    except NonFiniteError as error:
        return fail(str(error), 1)
    print(f"report: {run.report}")
    return status


def main() -> None:
    """Entry point of `gje-train`."""
    sys.exit(run_command("train", TrainConfig, train, ABOUT, errors=(ReplayError,)))


if __name__ == "__main__":
    main()
