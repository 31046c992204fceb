"""`gje-evaluate`: play episodes with a trained agent and tell what they show."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from agents.config import ConfigError
from gje_world.command import run_command
from gje_world.options import option, require_at_least, require_seed

ABOUT = """
gje-evaluate: play episodes with a trained agent; print returns, state probe and calibration.

  gje-evaluate run_dir=runs/dmc-cartpole-swingup/gje_conditional-seed1 episodes=20 film=film.mp4
"""


@dataclass
class EvaluateConfig:
    """Options of `gje-evaluate`."""

    run_dir: str = option(MISSING, "a directory that gje-train wrote")
    task: str | None = option(None, "needed for a run of task=gym/<module>:<id>, to allow the import")
    checkpoint: str | None = option(None, "one of its checkpoints; null: the newest")
    episodes: int = option(10, "episodes played")
    seed: int = option(0, "of the episodes, none of which training or its evaluations have seen")
    film: str | None = option(None, "where to write a film of the first episode (.mp4)")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")


def check(config: EvaluateConfig) -> None:
    """Refuses what could only fail after the episodes are played.

    Raises:
        ConfigError: the first option found wrong.
    """
    require_at_least(1, config, "episodes")
    require_seed(config)
    if config.film is not None:
        film = Path(config.film)
        if film.suffix != ".mp4":
            raise ConfigError(f"film={film} must end in .mp4")
        if not os.access(film.parent, os.W_OK):
            raise ConfigError(f"film={film} must lie in a folder that can be written")


def evaluate(config: EvaluateConfig) -> None:
    """Play the episodes, print a table, write the film."""
    import numpy as np
    import torch
    from rich.console import Console
    from rich.table import Table

    from agents.building import make_env
    from agents.evaluation import film_episode, play, summarise
    from agents.loading import load, load_config

    check(config)
    trained = load_config(config.run_dir)
    if config.task not in (None, trained.task):
        raise ConfigError(f"task={config.task} must be {trained.task}, as in {config.run_dir}, or null")
    if ":" in trained.task and config.task is None:
        raise ConfigError(
            f"the run in {config.run_dir} imports code for its task; add task={trained.task} if you trust it"
        )
    agent = load(config.run_dir, checkpoint=config.checkpoint, device=config.device)
    torch.manual_seed(config.seed)
    with ExitStack() as stack:
        environments = [stack.enter_context(closing(make_env(trained))) for _ in range(config.episodes)]
        first = environments[0]
        names, repeat = first.get_wrapper_attr("state_names"), first.get_wrapper_attr("action_repeat")
        # hashed, so that they lie nowhere near the numbers in a row that training takes
        drawn = np.random.SeedSequence(config.seed).generate_state(config.episodes, np.uint64)
        seeds = [int(seed >> np.uint64(1)) for seed in drawn]
        episodes = play(agent, environments, seeds, first.get_wrapper_attr("max_episode_steps"))
    row = summarise(agent, episodes, names)
    table = Table("measure", "value", title=f"{trained.task}, {config.episodes} episodes")
    for name, value in row.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.3f}")
    table.add_row("eval/returns", " ".join(f"{r:.0f}" for r in row["eval/returns"]))
    if "calibration/observed" in row:
        gap = np.abs(np.subtract(row["calibration/nominal"], row["calibration/observed"])).mean()
        table.add_row("calibration error", f"{gap:.3f}")
    Console().print(table)
    if config.film is not None:
        film_episode(Path(config.film), agent, episodes[0], repeat)
        print(f"film: {config.film}")


def main() -> None:
    """Entry point of `gje-evaluate`."""
    sys.exit(run_command("evaluate", EvaluateConfig, evaluate, ABOUT))


if __name__ == "__main__":
    main()
