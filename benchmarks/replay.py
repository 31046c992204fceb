"""Sequences per second that the replay samples, against the same written one sequence at a time.

    python benchmarks/replay.py [--csv results/replay.csv]

The replay of a full run of the default preset, its files in the page cache, as they are while it trains.
Both kinds sample evenly from it, in turn, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import parser, write_csv

from agents.config import TrainConfig
from agents.replay import Batch, Replay

STEPS = 12_500  # agent steps of a run of 100,000 frames of cartpole
EPISODE_STEPS = 125
ACTION_DIM = 1


def filled(folder: Path, steps: int) -> Replay:
    """A replay of noise, its episodes as long as cartpole's."""
    config, generator = TrainConfig(), np.random.default_rng(0)
    side = config.env.image_size
    episodes = steps // EPISODE_STEPS
    capacity = steps + episodes
    replay = Replay(folder, capacity, 0, (3, side, side), ACTION_DIM, config.env.frame_stack)
    frames = generator.integers(0, 256, (256, 3, side, side), np.uint8)
    for episode in range(episodes):
        replay.start(frames[episode % 256])
        for step in range(EPISODE_STEPS):
            action = generator.uniform(-1, 1, ACTION_DIM).astype(np.float32)
            replay.add(frames[(episode + step) % 256], action, float(generator.random()), False)
    return replay


def sample_plainly(replay: Replay, generator: np.random.Generator, count: int, horizon: int) -> Batch:
    """`count` sequences of `horizon` transitions, each collected by itself, then stacked."""
    frames, maps = [], replay.maps
    sequences: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(sequences) < count:
        start = int(generator.integers(0, replay.count - horizon))
        if maps["episode"][start] != maps["episode"][start + horizon]:
            continue
        window = range(start + 1 - replay.frame_stack, start + horizon + 1)
        frames.append(np.stack([maps["frame"][max(k, int(maps["first"][start]))] for k in window]))
        after = slice(start + 1, start + horizon + 1)
        sequences.append((maps["action"][after], maps["reward"][after], maps["terminated"][after]))
    action, reward, ended = (np.stack(part, 1) for part in zip(*sequences, strict=True))
    parts = np.stack(frames), action, reward, ended.astype(np.float32)
    return Batch(*(torch.from_numpy(part) for part in parts))


def seconds(sample: Callable[[np.random.Generator, int, int], Batch], batches: int) -> float:
    """Of one batch of the default preset."""
    config, generator = TrainConfig(), np.random.default_rng(1)
    start = time.perf_counter()
    for _ in range(batches):
        sample(generator, config.batch_size, config.agent.horizon)
    return (time.perf_counter() - start) / batches


def main() -> None:
    """Measure, print a table, and write it to the CSV file if one is named."""
    options = parser(__doc__)
    options.add_argument("--batches", type=int, default=50, help="timed batches a round")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()

    found: dict[str, list[float]] = {"fast": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        replay = filled(Path(folder), STEPS)
        for _ in range(arguments.rounds):
            found["fast"].append(seconds(replay.sample, arguments.batches))
            found["plain"].append(seconds(lambda *asked: sample_plainly(replay, *asked), arguments.batches))
    size = TrainConfig().batch_size
    fast, plain = (size / statistics.median(found[kind]) for kind in ("fast", "plain"))
    print(f"{'plain':>10}{'fast':>10}{'ratio':>8}   sequences a second")
    print(f"{plain:>10,.0f}{fast:>10,.0f}{fast / plain:>7.1f}×")
    if arguments.csv is not None:
        row: dict[str, object] = {"plain_sequences_per_second": f"{plain:.0f}"}
        row |= {"fast_sequences_per_second": f"{fast:.0f}", "ratio": f"{fast / plain:.2f}"}
        write_csv(arguments.csv, [row | {"batch_size": size, "horizon": TrainConfig().agent.horizon}])


if __name__ == "__main__":
    main()
