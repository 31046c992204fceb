"""Agent steps per second of the whole training loop, and the memory that a run of 100,000 frames takes.

    python benchmarks/loop.py [--csv results/loop.csv]

Runs `gje-train`'s own loop with the default preset in a process of its own: acting, simulating, drawing,
replay, one update a step, logging. The speed is that between two rows of the run's metrics: from where the
updates that the prefill owed are made up to the last agent step. The memory is the process's largest resident
size, the final evaluation's ten environments included, and the replay frames that a full run adds to it.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from measure import in_own_process, parser, write_csv

import envs
from agents.building import make_env
from agents.config import CHANGEABLE, TrainConfig, check
from agents.online import Online
from agents.replay import Replay
from gje_world.options import plain_value
from gje_world.training.run_directory import RunDirectory

RUN_FRAMES = 100_000  # env frames
PREFILL = 125  # agent steps


class Measured(NamedTuple):
    """What one run showed."""

    steps_per_second: float  # agent steps
    peak: int  # bytes resident at most
    full_run: int  # bytes that a run of 100,000 env frames would take
    threads: int


def run_loop(task: str, steps: int, threads: int | None) -> Measured:
    """Train on `task` for `steps` agent steps beyond those that set it going."""
    repeat = envs.action_repeat_for(task)
    # four updates a step make up for the prefill within a third of its length
    settled = math.ceil(PREFILL * 4 / 3)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(task=task, threads=threads, prefill=PREFILL * repeat)
        config.run_dir = f"{folder}/run"
        settled += -settled % config.log_every  # where a row is written
        config.steps = (settled + math.ceil(steps / config.log_every) * config.log_every) * repeat
        config.evaluation.every = config.steps
        check(config)
        with RunDirectory.open(Path(config.run_dir), plain_value(config), changeable=CHANGEABLE) as run:
            online = Online(config, run, make_env(config), lambda: make_env(config))
            online.train()
            rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    times = {row["step"] // repeat: row["time"] for row in rows if row["kind"] == "train"}
    last = max(times)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    side, action_dim = config.env.image_size, online.agent.planner.action_dim
    still_to_come = max(0, RUN_FRAMES // repeat - online.replay.count)
    return Measured(
        (last - settled) / (times[last] - times[settled]),
        largest,
        largest + Replay.disk_bytes(still_to_come, (3, side, side), action_dim),
        torch.get_num_threads(),
    )


def main() -> None:
    """Measure, print a table, and write it to the CSV file if one is named."""
    options = parser(__doc__)
    options.add_argument("--task", default="dmc/cartpole-swingup")
    options.add_argument("--steps", type=int, default=400, help="timed agent steps, at least 1")
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()

    found = in_own_process(run_loop, arguments.task, arguments.steps, arguments.threads)
    peak, full_run = found.peak / 2**30, found.full_run / 2**30
    print(
        f"{'task':<24}{'agent steps/s':>14}{'peak GiB':>10}{'of 100k frames':>16}   {found.threads} threads"
    )
    print(f"{arguments.task:<24}{found.steps_per_second:>14.2f}{peak:>10.2f}{full_run:>16.2f}")
    if arguments.csv is not None:
        row: dict[str, object] = {
            "task": arguments.task,
            "agent_steps_per_second": f"{found.steps_per_second:.2f}",
            "peak_resident_gib": f"{peak:.3f}",
            "full_run_resident_gib": f"{full_run:.3f}",
            "timed_agent_steps": arguments.steps,
            "threads": found.threads,
        }
        write_csv(arguments.csv, [row])


if __name__ == "__main__":
    main()
