"""How fast do windows of frames come from clips on disk, and how fast does training use them?

Windows of 16 frames of 64×64 pixels in batches of 32, from a file that lies in the page cache; and the update
of `gje-video`'s model, as it is by default, that learns from one such batch, its encoder not yet at rest.

    python benchmarks/clips.py --csv results/clips.csv
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import parser, write_csv

from gje_world.data import Clips, ClipWriter
from gje_world.training.devices import set_threads
from gje_world.video.config import VideoConfig
from gje_world.video.train import make_learner

BATCH, LENGTH, SIZE = 32, 16, 64


def main() -> None:
    """Build clips of noise, read from them, learn from them, and print frames a second."""
    options = parser(__doc__)
    options.add_argument("--episodes", type=int, default=100)
    options.add_argument("--length", type=int, default=200, help="frames of an episode")
    options.add_argument("--batches", type=int, default=200, help="read")
    options.add_argument("--updates", type=int, default=10, help="learnt")
    options.add_argument("--threads", type=int, default=None, help="all cores unless told otherwise")
    arguments = options.parse_args()
    if arguments.updates < 1:
        options.error(f"--updates {arguments.updates} must be at least 1")
    set_threads(arguments.threads)
    shape = (3, SIZE, SIZE)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with ClipWriter(Path(folder), shape, action_dim=2, state_names=("x", "y")) as clips:
            for _ in range(arguments.episodes):
                clips.append(
                    generator.integers(256, size=(arguments.length, *shape), dtype=np.uint8),
                    np.zeros((arguments.length - 1, 2)),
                    np.zeros((arguments.length, 2)),
                )
        reading = read(clips, generator, arguments.batches)
        learning = learn(clips, generator, arguments.updates)
    row = {
        "size": SIZE,
        "length": LENGTH,
        "batch": BATCH,
        "frames_per_second": round(reading),
        "frames_learnt_per_second": round(learning),
        "threads": torch.get_num_threads(),
    }
    print(row)
    if arguments.csv is not None:
        write_csv(arguments.csv, [row])


def read(clips: Clips, generator: np.random.Generator, batches: int) -> float:
    """Frames a second of windows that are read alone."""
    clips.sample(generator, BATCH, LENGTH)
    start = time.perf_counter()
    for _ in range(batches):
        clips.sample(generator, BATCH, LENGTH)
    return batches * BATCH * LENGTH / (time.perf_counter() - start)


def learn(clips: Clips, generator: np.random.Generator, updates: int) -> float:
    """Frames a second that the update takes, of a batch that is read already."""
    learner = make_learner(VideoConfig(), clips)
    optimizer = torch.optim.Adam(learner.parameter_groups())
    batch = clips.sample(generator, BATCH, LENGTH)
    for update in range(updates + 1):
        if update == 1:  # the first, which makes room in memory, is not counted
            start = time.perf_counter()
        loss, _ = learner(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return updates * BATCH * LENGTH / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
