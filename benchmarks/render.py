"""Frames per second of `envs` against dm_control's own `physics.render(64, 64)`, and their ratio.

    python benchmarks/render.py [--csv results/render.csv]

Each measurement runs in a process of its own, the two kinds in turn, and the median of the rounds counts.
Only drawing is timed; the simulation is stepped with random actions in between.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from envs.backend import choose_backend

TASKS = (
    ("cartpole", "swingup"),
    ("cheetah", "run"),
    ("walker", "walk"),
    ("reacher", "easy"),
    ("finger", "spin"),
    ("ball_in_cup", "catch"),
)
IMAGE_SIZE = 64
ROUNDS = 3
# About half a second of drawing each.
PHYSICS_FRAMES, ENVS_FRAMES = 30, 500


def physics_frames_per_second(domain: str, task: str) -> float:
    """`physics.render` as a user of dm_control finds it."""
    os.environ.pop("LP_NUM_THREADS", None)
    from dm_control import suite

    env = suite.load(domain, task, task_kwargs={"random": 0})
    env.reset()
    spec = env.action_spec()
    random = np.random.default_rng(0)
    return _frames_per_second(
        lambda: env.physics.render(IMAGE_SIZE, IMAGE_SIZE, camera_id=0),
        lambda: env.step(random.uniform(spec.minimum, spec.maximum)),
        PHYSICS_FRAMES,
    )


def envs_frames_per_second(domain: str, task: str) -> float:
    """The frames that `envs.make` observes by default."""
    from envs.dmc import SuiteEnv

    env = SuiteEnv(domain, task, IMAGE_SIZE, "fast")
    env.reset(seed=0)
    env.action_space.seed(0)
    return _frames_per_second(env.render, lambda: env.step(env.action_space.sample()), ENVS_FRAMES)


def _frames_per_second(draw: Callable[[], object], step: Callable[[], object], frames: int) -> float:
    draw()  # makes the OpenGL context
    seconds = 0.0
    for _ in range(frames):
        step()
        start = time.perf_counter()
        draw()
        seconds += time.perf_counter() - start
    return frames / seconds


def measure(domain: str, task: str) -> tuple[float, float]:
    """Median frames/s of `physics.render` and of `envs`."""
    spawn = multiprocessing.get_context("spawn")
    rounds: dict[Callable[[str, str], float], list[float]] = {
        physics_frames_per_second: [],
        envs_frames_per_second: [],
    }
    for _ in range(ROUNDS):
        for kind, results in rounds.items():
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                results.append(process.submit(kind, domain, task).result())
    physics, ours = map(statistics.median, rounds.values())
    return physics, ours


def main() -> None:
    """Measure all tasks, print a table, and write it to the CSV file if one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--csv", type=Path, help="also write the table here, with command, commit and machine"
    )
    path = parser.parse_args().csv
    backend = choose_backend()

    print(f"{'task':<20}{'physics.render':>16}{'envs fast':>12}{'ratio':>8}   frames/s, {backend}")
    rows = []
    for domain, task in TASKS:
        physics, ours = measure(domain, task)
        print(f"{domain + '-' + task:<20}{physics:>16.1f}{ours:>12.1f}{ours / physics:>7.1f}×", flush=True)
        rows.append(
            {
                "task": f"dmc/{domain}-{task}",
                "physics_render_fps": f"{physics:.1f}",
                "envs_fast_fps": f"{ours:.1f}",
                "ratio": f"{ours / physics:.2f}",
                "image_size": IMAGE_SIZE,
                "backend": backend,
                "command": shlex.join(["python", *sys.argv]),
                "commit": _commit(),
                "machine": _machine(),
            }
        )
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"


def _machine() -> str:
    """Processor and number of cores; Linux tells the model only in /proc."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
