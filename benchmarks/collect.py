"""Gathers finished runs into results/: their learning curves as CSV, and the figure drawn from it.

    python benchmarks/collect.py runs/dmc-*/*    # adds or replaces these runs, redraws the figure
    python benchmarks/collect.py                 # only redraws the figure
    python benchmarks/collect.py --film runs/…/films/step_000060000.mp4      # and a frame of a film

Every row carries the command, commit and machine that the run itself recorded when it began.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

import av
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL.Image import Image

from gje_world.plots.style import styled
from gje_world.training.metrics import read_metrics
from gje_world.training.origin import origin_of
from gje_world.training.run_directory import read_config

RESULTS = Path(__file__).parent.parent / "results"
CURVES = RESULTS / "learning_curves.csv"
COLUMNS = [
    "task", "objective", "belief", "seed", "frames", "return_mean", "return_std", "episodes", "minutes",
    "probe_r2", "calibration_error", "command", "commit", "machine",
]  # fmt: skip


def rows_of(run: Path) -> list[dict]:
    """One row for each evaluation of a run."""
    config = read_config(run)
    made_by = origin_of(run)
    rows = []
    for row in read_metrics(run / "metrics.jsonl"):
        if row["kind"] != "eval":
            continue
        r2 = [value for name, value in row.items() if name.startswith("probe/r2/") and value is not None]
        gaps = [
            abs(a - b)
            for a, b in zip(
                row.get("calibration/nominal", []), row.get("calibration/observed", []), strict=True
            )
        ]
        rows.append(
            {
                "task": config["task"],
                "objective": config["objective"]["name"],
                "belief": config["belief"]["name"],
                "seed": config["seed"],
                "frames": row["step"],
                "return_mean": round(row["eval/return_mean"], 1),
                "return_std": round(row["eval/return_std"], 1),
                "episodes": len(row["eval/returns"]),
                "minutes": round(row["time"] / 60, 1),
                "probe_r2": round(statistics.mean(r2), 3) if r2 else "",
                "calibration_error": round(statistics.mean(gaps), 3) if gaps else "",
                **made_by,
            }
        )
    return rows


def name_of(row: dict) -> tuple[str, ...]:
    """What tells the run of a row from others."""
    return tuple(str(row[name]) for name in ("task", "objective", "belief", "seed", "command", "commit"))


@styled
def draw(rows: list[dict]) -> Figure:
    """Evaluation return against env frames: a panel a task, a line a run, a colour a kind of run."""
    kinds: dict[str, str] = {}  # colours, in the order of the table
    curves: dict[str, dict[tuple[str, ...], list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kind = f"{row['objective']}, {row['belief']} ({row['commit'][:7]})"
        kinds.setdefault(kind, f"C{len(kinds)}")
        point = (int(row["frames"]), float(row["return_mean"]))
        curves[row["task"]][kind, str(row["seed"]), row["command"]].append(point)
    figure = Figure(figsize=(4.2 * len(curves), 3.8), layout="constrained")
    for panel, (task, runs) in enumerate(sorted(curves.items()), 1):
        axes = figure.add_subplot(1, len(curves), panel)
        for (kind, *_), points in runs.items():
            frames, returns = zip(*sorted(points), strict=True)
            axes.plot(frames, returns, color=kinds[kind], marker="o", markersize=3)
        axes.set(title=task, xlabel="env frames", ylabel="evaluation return", ylim=(0, None))
    lines = [Line2D([], [], color=colour, marker="o", markersize=3) for colour in kinds.values()]
    figure.legend(lines, list(kinds), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def middle_frame(film: Path) -> Image:
    """The frame in the middle of a film."""
    with av.open(str(film)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return frames[len(frames) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run directories that gje-train wrote")
    parser.add_argument("--film", type=Path, help="whose middle frame becomes film_frame.png")
    arguments = parser.parse_args()
    rows: list[dict] = []
    if CURVES.exists():
        with CURVES.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for run in arguments.runs:
        new = rows_of(run)
        run_names = {name_of(row) for row in new}
        rows = [row for row in rows if name_of(row) not in run_names] + new
    with CURVES.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows).savefig(RESULTS / "learning_curves.png", dpi=130)
    if arguments.film is not None:
        middle_frame(arguments.film).save(RESULTS / "film_frame.png")


if __name__ == "__main__":
    main()
