"""What the multiple-futures benchmark found: draws beside the true ways, boards of scores, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gje_world.plots.boards import MISSING, Board, draw_boards
from gje_world.plots.page import Tile
from gje_world.plots.style import BLUE, INK, MUTED, ORANGE, PALETTE, styled
from gje_world.plots.table_report import write_table_report

Rows = Sequence[Mapping[str, Any]]
Portraits = Mapping[tuple[str, str], tuple[npt.NDArray, npt.NDArray]]

PANELS = 4  # in a row
BOARDS = tuple(
    Board(title, itemgetter(column), written.format, badness)
    for title, column, written, badness in (
        ("ways found (recall)", "recall", "{:.0%}", lambda share: 1 - share),
        ("draws on any way (precision)", "precision", "{:.0%}", lambda share: 2 * (1 - share)),
        ("total variation", "total_variation", "{:.3f}", lambda error: error / 0.3),
        ("energy score / oracle's, 5 steps", "energy_ratio_5", "{:.2f}", lambda ratio: ratio - 1),
        ("coverage error at 90 %, 1 step", "coverage_error_90_1", "{:.1%}", lambda error: error / 0.1),
        ("coverage error at 90 %, 5 steps", "coverage_error_90_5", "{:.1%}", lambda error: error / 0.1),
    )
)


@styled
def coverage_by_step(steps: Rows) -> Figure:
    """Coverage error at 90 % at each step ahead, mean over seeds: a panel for each world, a line for each
    predictor, with bands of two standard errors over contexts."""
    worlds, predictors = (list(dict.fromkeys(row[key] for row in steps)) for key in ("world", "predictor"))
    figure, panels = _panels(len(worlds))
    for axes, world in zip(panels, worlds, strict=False):
        for predictor, colour in zip(predictors, cycle(PALETTE)):
            lines = [row for row in steps if (row["world"], row["predictor"]) == (world, predictor)]
            if not lines:
                continue
            ahead = sorted({row["step"] for row in lines})
            error, deviation = (
                np.array([np.mean([row[name] for row in lines if row["step"] == step]) for step in ahead])
                for name in ("coverage_error_90", "coverage_se_90")
            )
            axes.plot(ahead, error, "o-", ms=3, color=colour, label=predictor.replace("_", " "))
            low = (error - 2 * deviation).clip(min=0)
            axes.fill_between(ahead, low, error + 2 * deviation, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(world.replace("_", " "), fontsize=7.5)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].legend(fontsize=6)
    return figure


@styled
def ranks_by_step(steps: Rows) -> Figure:
    """Ranks of what happened among the draws (PIT) of the first seed: a line for each step ahead, the darker
    the further. Level where calibrated; high at the ends where too sure, in the middle where too wide."""
    pairs = list(dict.fromkeys((row["world"], row["predictor"]) for row in steps))
    figure, panels = _panels(len(pairs))
    for axes, (world, predictor) in zip(panels, pairs, strict=False):
        lines = [row for row in steps if (row["world"], row["predictor"]) == (world, predictor)]
        lines = [row for row in lines if row["seed"] == lines[0]["seed"]]
        bins = sum(name.startswith("pit_") for name in lines[0])
        top = 3.0
        for row in lines:
            density = [bins * row[f"pit_{place}"] for place in range(bins)]
            shade = 0.2 + 0.8 * row["step"] / len(lines)
            top = max(top, *density)
            axes.stairs(density, np.linspace(0, 1, bins + 1), color=BLUE, alpha=shade)
        axes.axhline(1, color=MUTED, lw=0.8, ls="--")
        axes.set_title(f"{world}, {predictor}".replace("_", " "), fontsize=6.5)
        axes.set_ylim(0, 1.05 * top)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many small panels in rows of four."""
    rows = -(-count // PANELS)
    figure = Figure(figsize=(9, 1.7 * rows + 0.3), layout="constrained")
    panels = list(figure.subplots(rows, PANELS, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


@styled
def gallery(portraits: Portraits) -> Figure:
    """Draws of the last step ahead for one context of every world (a row each) by each predictor.

    Arguments:
        portraits: by world and predictor, draws `[S, H, N, V]` and places of the ways `[H, N, K, V]`.
    """
    worlds, predictors = (list(dict.fromkeys(key[i] for key in portraits)) for i in (0, 1))
    figure = Figure(figsize=(1.5 * len(predictors) + 0.6, 1.5 * len(worlds) + 0.3), layout="constrained")
    grid = figure.subplots(len(worlds), len(predictors), squeeze=False)
    for line, world in zip(grid, worlds, strict=True):
        drawn = [draws[:, -1, 0] for (name, _), (draws, _) in portraits.items() if name == world]
        side = max(1.15, *(1.05 * float(np.abs(draws).max()) for draws in drawn))
        for axes, predictor in zip(line, predictors, strict=True):
            axes.set(xticks=[], yticks=[], xlim=(-side, side), ylim=(side, -side))
            if (world, predictor) not in portraits:
                axes.text(0, 0, MISSING, ha="center", va="center", color=MUTED)
                continue
            draws, places = portraits[world, predictor]
            if places.size:
                ways = places[-1, 0]
                axes.plot(ways[:, 0], ways[:, -1], "o", ms=9, mfc="none", mec=ORANGE, mew=0.8)
            colour = INK if predictor == "oracle" else BLUE
            axes.plot(draws[:, -1, 0, 0], draws[:, -1, 0, -1], ".", ms=2.2, alpha=0.5, mew=0, color=colour)
        line[0].set_ylabel(world.replace("_", " "), fontsize=7.5)
    for axes, predictor in zip(grid[0], predictors, strict=True):
        axes.set_title(predictor.replace("_", " "), fontsize=7.5, loc="center")
    return figure


def scoreboard(rows: Rows) -> Figure:
    """Scores of each predictor in each world, mean over seeds. Green is good."""
    return draw_boards(rows, "world", "predictor", BOARDS)


def portrait_path(run_dir: Path, world: str, predictor: str, seed: int) -> Path:
    """Where the draws of a predictor are kept; one of one's own has a colon, which not every disk takes."""
    return run_dir / "portraits" / f"{world}-{predictor.replace(':', '.')}-{seed}.npz"


def write_report(run_dir: Path, rows: Rows, steps: Rows, config: str) -> Path:
    """Writes `report.html` and its figures in `plots/`; the path of the report.

    Arguments:
        run_dir: also holds the portraits, in `portraits/`.
        rows: of `table.csv`, in the order to show them.
        steps: of `steps.csv`, a row for each step ahead.
        config: the benchmark's options, as text.
    """
    portraits = {}
    for row in rows:
        path = portrait_path(run_dir, row["world"], row["predictor"], row["seed"])
        if (row["world"], row["predictor"]) not in portraits and path.exists():
            with np.load(path) as found:
                portraits[row["world"], row["predictor"]] = (found["draws"], found["places"])
    figures = (
        (
            "gallery",
            "Sampled futures",
            "One context of each world, five steps ahead, as the probe reads the draws. Rings: where ways "
            "lead. Of the coin, its hue downwards.",
            gallery(portraits),
        ),
        ("scoreboard", "Scores", "On held-out contexts, mean over seeds.", scoreboard(rows)),
        (
            "coverage",
            "Coverage at each step ahead",
            "How far the central intervals of 90 % are from holding 90 % of what happened; bands of two "
            "standard errors over contexts.",
            coverage_by_step(steps),
        ),
        (
            "ranks",
            "Ranks at each step ahead",
            "Of what happened among the draws (PIT), one line a step, the darker the further. Level where "
            "calibrated.",
            ranks_by_step(steps),
        ),
    )
    tiles = [
        Tile(f"{row['recall']:.0%} · {row['total_variation']:.3f}", f"{row['world']}: ways found, variation")
        for row in rows
        if row["predictor"] == "mixture" and row["recall"] is not None
    ]
    subtitle = "Which futures there are, and how likely each is, held against the true law"
    return write_table_report(run_dir, "Multiple futures", subtitle, figures, tiles, config)
