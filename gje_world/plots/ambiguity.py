"""What the ambiguity suite found: a gallery of samples, a board of scores, and a page with both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from gje_world.plots.boards import MISSING, Board, draw_boards, neither
from gje_world.plots.page import Tile
from gje_world.plots.style import BLUE, INK, MUTED, styled
from gje_world.plots.table_report import write_table_report

SCORES = (
    "On held-out data, mean over seeds. A mode is found where the belief puts at least half as much "
    "mass near it as the truth does. The energy score is the mean distance of draws to what came, less "
    "half that between draws; above the truth's it is the belief's error. A coverage error is how far a "
    "region of that probability is from holding that share of what came."
)
Rows = Sequence[Mapping[str, Any]]
Portraits = Mapping[str, Mapping[str, npt.NDArray]]


@styled
def gallery(portraits: Portraits) -> Figure:
    """Samples of every task (a row each) by the truth and each belief (columns).

    Arguments:
        portraits: by task and then by "truth" or belief, points `[P, 2]`.
    """
    beliefs = list(dict.fromkeys(belief for row in portraits.values() for belief in row))
    figure = Figure(figsize=(1.05 * len(beliefs) + 0.5, 1.05 * len(portraits) + 0.3), layout="constrained")
    grid = figure.subplots(len(portraits), len(beliefs), squeeze=False)
    for line, (task, row) in zip(grid, portraits.items(), strict=True):
        low, high = np.quantile(row["truth"], (0.005, 0.995), axis=0)
        margin = 0.15 * (high - low)
        for axes, belief in zip(line, beliefs, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
            if belief in row:
                colour = INK if belief == "truth" else BLUE
                axes.plot(*row[belief].T, ".", color=colour, markersize=1.2, alpha=0.35, mew=0)
            else:
                axes.text(0.5, 0.5, MISSING, transform=axes.transAxes, ha="center", va="center", color=MUTED)
        line[0].set_ylabel(task.replace("_", " "), fontsize=7.5)
    for axes, belief in zip(grid[0], beliefs, strict=True):
        axes.set_title(belief.replace("_", " "), fontsize=7.5, loc="center")
    return figure


def scoreboard(rows: Rows) -> Figure:
    """What each belief lacks on each task, mean over seeds, and what it costs. Green is good."""
    return draw_boards(rows, "task", "belief", BOARDS)


def write_report(run_dir: Path, rows: Rows, portraits: Portraits, config: str) -> Path:
    """Writes `report.html` and its figures in `plots/`; the path of the report.

    Arguments:
        rows: of `ambiguity.csv`, in the order to show them.
        portraits: as for `gallery`.
        config: the suite's options, as text.
    """
    figures = (
        (
            "gallery",
            "Samples",
            "Left the truth, then what each belief draws. Tasks of one dimension over their context, the "
            "others at one context.",
            gallery(portraits),
        ),
        ("scoreboard", "Scores", SCORES, scoreboard(rows)),
    )
    tiles = [Tile(f"{gap:.3f}", f"{task.replace('_', ' ')}: {belief}") for task, belief, gap in best(rows)]
    subtitle = "NLL above the truth's in nats per dimension, by the best belief of each task"
    return write_table_report(run_dir, "Ambiguity suite", subtitle, figures, tiles, config)


def best(rows: Rows) -> list[tuple[str, str, float]]:
    """Of each task the belief with the least mean gap over its seeds, and that gap."""
    gaps: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        gaps.setdefault(row["task"], {}).setdefault(row["belief"], []).append(row["nll_gap"])
    winners = []
    for task, by_belief in gaps.items():
        belief = min(by_belief, key=lambda name: mean(by_belief[name]))
        winners.append((task, belief, mean(by_belief[belief])))
    return winners


def _worst_coverage(row: Mapping[str, Any]) -> float:
    return max(value for name, value in row.items() if name.startswith("coverage_error"))


def _log_gap(gap: float) -> float:
    """From 0 at 0.01 nats to 1 at 1 nat."""
    return math.log10(max(gap, 0.01)) / 2 + 1


BOARDS = (
    Board(
        "NLL above the truth's (nats per dimension)", lambda row: row["nll_gap"], "{:.3f}".format, _log_gap
    ),
    Board("modes found", lambda row: row["mode_recall"], "{:.0%}".format, lambda recall: 1 - recall),
    Board("largest coverage error at 50, 90, 95 %", _worst_coverage, "{:.1%}".format, lambda e: e / 0.1),
    Board(
        "energy score above the truth's",
        lambda row: row["energy_excess"],
        "{:.3f}".format,
        lambda e: e / 0.2,
    ),
    Board("seconds of 1,000 updates", lambda row: row["seconds_per_1000_updates"], "{:.1f}".format, neither),
)
