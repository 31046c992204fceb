"""What a video model knows of DM Control under a random policy, actions given: probes, calibration, surprise.

Episodes are recorded first, into `--recordings`, where they are kept; then a model of each task and seed is
trained by `gje-video preset=control` and measured on held-out episodes. A row of the table is one model: an
embedding of keypoints, and a perceptron on three such embeddings, whose belief is a Gaussian of diagonal plus
low-rank covariance. Episodes are short, so that many begin, each elsewhere.

An angle of a joint is no linear function of places: so a perceptron stands beside the keypoints, and
embeddings are told from shifted views, which leaves no room for ever finer functions of one place. Reacher's
target stays where it is all through an episode: so windows of one episode are held against one another, and
half of the variance is to lie within episodes. Under the joint likelihood of such a Gaussian its mean hardly
learns what moves, which its few wide directions explain as noise: so it learns by the likelihoods of its
dimensions (`objective.fit=composite`).

Cartpole is the task of balancing, at half the agent's action repeat: under a random policy a pole that swings
up often leaves the picture with its cart, and what cannot be seen cannot be read; here it hardly ever does.

    python benchmarks/video.py --csv results/video.csv
    python benchmarks/video.py --options objective.fit=likelihood --csv runs/by_likelihood.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from measure import parser, write_csv

from gje_world.command import configuration
from gje_world.evaluation import NOMINAL
from gje_world.evaluation.scores import LEVELS
from gje_world.training.metrics import read_metrics
from gje_world.training.origin import origin_of
from gje_world.video.config import VideoConfig
from gje_world.video.recording import RecordConfig, record
from gje_world.video.train import train

TASKS = ("cartpole-balance", "reacher-easy")
EPISODES, LENGTH, ACTION_REPEAT = 3200, 30, 4  # frames of each
POSITIONS = ("position", "to_target")


def configured(
    task: str, seed: int, updates: int, threads: int | None, folder: Path, options: Sequence[str] = ()
) -> VideoConfig:
    """The run of a task and seed, in `folder`, with further `options`, after which it is called."""
    config: VideoConfig = configuration("video", VideoConfig, "preset=control", "data=clips", *options)
    name = "-".join([f"{task}-seed{seed}", *options]).replace("=", "-")
    config.seed, config.run_dir = seed, str(folder / name)
    config.data.path = str(folder / task)
    config.engine = replace(config.engine, updates=updates, evaluate_every=updates, threads=threads)
    return config


def measured(config: VideoConfig) -> dict[str, object]:
    """Train, unless that is done, and tell the scores that have targets."""
    train(config)
    rows = read_metrics(Path(str(config.run_dir)) / "metrics.jsonl")
    if not rows or rows[-1]["kind"] != "eval":
        raise SystemExit("stopped; the same command goes on")
    row = rows[-1]
    found: dict[str, object] = {"minutes": round(row["time"] / 60, 1)}
    for kind in ("r2", "ahead_r2", "stays_r2"):
        values = {name: value for name, value in row.items() if name.startswith(f"probe/{kind}/")}
        named = {name: v for name, v in values.items() if name.split("/")[2].startswith(POSITIONS)}
        found |= {name.removeprefix("probe/"): round(value, 3) for name, value in named.items()}
    for part in ("seen", "held_out"):  # after one step; above 0 where beliefs are too wide
        for level, bias in zip((50, 90, 95), row[f"calibration/one_step_{part}"], strict=True):
            found[f"coverage_bias_{level}_{part}"] = round(bias, 3)
    for step in (1, 5):
        held = dict(zip(NOMINAL, row[f"calibration/observed_{step}"], strict=True))
        worst = max(range(len(LEVELS)), key=lambda place: abs(held[LEVELS[place]] - LEVELS[place]))
        found[f"coverage_error_{step}"] = round(row[f"calibration/error_{step}"], 3)
        found[f"coverage_stderr_{step}"] = round(row[f"calibration/stderr_{step}"][worst], 3)
        found[f"nll_{step}"] = round(row["foresight/nll"][step - 1], 3)
        found[f"retrieval_mrr_{step}"] = round(row[f"retrieval/mrr_{step}"], 3)
    found["beats_marginal_to_step"] = row["foresight/horizon"]
    surprise = {name: value for name, value in row.items() if name.startswith("surprise/")}
    found |= {name.replace("/", "_"): round(value, 3) for name, value in surprise.items()}
    return found | origin_of(Path(str(config.run_dir)))


def main() -> None:
    """Record, train, measure, and print a line a run."""
    arguments = parser(__doc__)
    arguments.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    arguments.add_argument("--seeds", type=int, default=1, help="runs of each task, with seeds from 1 on")
    arguments.add_argument("--updates", type=int, default=8_000)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument(
        "--options", nargs="+", default=[], help="of gje-video, as in objective.fit=likelihood"
    )
    arguments.add_argument("--recordings", type=Path, default=Path("runs/video-benchmark"))
    asked = arguments.parse_args()
    rows: list[dict[str, object]] = []
    for task in asked.tasks:
        record(
            RecordConfig(
                task=f"dmc/{task}",
                episodes=EPISODES,
                length=LENGTH,
                action_repeat=ACTION_REPEAT,
                out=str(asked.recordings / task),
            )
        )
        for seed in range(1, asked.seeds + 1):
            config = configured(task, seed, asked.updates, asked.threads, asked.recordings, asked.options)
            arm = {"task": task, "options": " ".join(asked.options), "seed": seed, "updates": asked.updates}
            rows.append(arm | measured(config))
            print(rows[-1])
    if asked.csv:
        names = dict.fromkeys(name for row in rows for name in row)
        write_csv(asked.csv, [{name: row.get(name) for name in names} for row in rows])


if __name__ == "__main__":
    main()
