"""Frames per second of `envs` against dm_control's own `physics.render(64, 64)`, and their ratio.

    python benchmarks/render.py [--csv results/render.csv]

Each measurement runs in a process of its own, the two kinds in turn, and the median of the rounds counts.
Only drawing is timed; the simulation is stepped with random actions in between.
"""

import os
import time
from collections.abc import Callable

import numpy as np
from measure import medians, parser, write_csv

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


def main() -> None:
    """Measure all tasks, print a table, and write it to the CSV file if one is named."""
    path = parser(__doc__).parse_args().csv
    backend = choose_backend()

    print(f"{'task':<20}{'physics.render':>16}{'envs fast':>12}{'ratio':>8}   frames/s, {backend}")
    kinds = {"physics": physics_frames_per_second, "envs": envs_frames_per_second}
    rows: list[dict[str, object]] = []
    for domain, task in TASKS:
        found = medians(kinds, domain, task, rounds=ROUNDS)
        physics, ours = found["physics"], found["envs"]
        print(f"{domain + '-' + task:<20}{physics:>16.1f}{ours:>12.1f}{ours / physics:>7.1f}×", flush=True)
        rows.append(
            {
                "task": f"dmc/{domain}-{task}",
                "physics_render_fps": f"{physics:.1f}",
                "envs_fast_fps": f"{ours:.1f}",
                "ratio": f"{ours / physics:.2f}",
                "image_size": IMAGE_SIZE,
                "backend": backend,
            }
        )
    if path is not None:
        write_csv(path, rows)


if __name__ == "__main__":
    main()
