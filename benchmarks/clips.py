"""How fast do windows of frames come from clips on disk?

Windows of 16 frames of 64×64 pixels in batches of 32, from a file that lies in the page cache.

    python benchmarks/clips.py --csv results/clips.csv
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from measure import parser, write_csv

from gje_world.data import ClipWriter


def main() -> None:
    """Build clips of noise, read from them, and print frames a second."""
    options = parser(__doc__)
    options.add_argument("--episodes", type=int, default=100)
    options.add_argument("--length", type=int, default=200, help="frames of an episode")
    options.add_argument("--size", type=int, default=64)
    options.add_argument("--batches", type=int, default=200)
    arguments = options.parse_args()
    shape = (3, arguments.size, arguments.size)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with ClipWriter(Path(folder), shape, action_dim=2, state_names=("x", "y")) as clips:
            for _ in range(arguments.episodes):
                clips.append(
                    generator.integers(256, size=(arguments.length, *shape), dtype=np.uint8),
                    np.zeros((arguments.length - 1, 2)),
                    np.zeros((arguments.length, 2)),
                )
        clips.sample(generator, 32, 16)
        start = time.perf_counter()
        frames = sum(
            clips.sample(generator, 32, 16).frames[..., 0, 0, 0].numel() for _ in range(arguments.batches)
        )
        seconds = time.perf_counter() - start
    row = {"size": arguments.size, "length": 16, "batch": 32, "frames_per_second": round(frames / seconds)}
    print(row)
    if arguments.csv is not None:
        write_csv(arguments.csv, [row])


if __name__ == "__main__":
    main()
