"""What the multiple-futures benchmark found: draws beside the true ways, boards of scores, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from gje_world.plots.boards import MISSING, Board, draw_boards
from gje_world.plots.page import Tile
from gje_world.plots.style import BLUE, INK, MUTED, ORANGE, styled
from gje_world.plots.table_report import write_table_report

Rows = Sequence[Mapping[str, Any]]
Portraits = Mapping[tuple[str, str], tuple[npt.NDArray, npt.NDArray]]

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
def gallery(portraits: Portraits) -> Figure:
    """Draws of the last step ahead for one context of every world (a row each) by each predictor.

    Arguments:
        portraits: by world and predictor, draws `[S, H, N, V]` and places of the ways `[H, N, K, V]`.
    """
    worlds, predictors = (list(dict.fromkeys(key[i] for key in portraits)) for i in (0, 1))
    figure = Figure(figsize=(1.5 * len(predictors) + 0.6, 1.5 * len(worlds) + 0.3), layout="constrained")
    grid = figure.subplots(len(worlds), len(predictors), squeeze=False)
    for line, world in zip(grid, worlds, strict=True):
        for axes, predictor in zip(line, predictors, strict=True):
            axes.set(xticks=[], yticks=[], xlim=(-1.15, 1.15), ylim=(1.15, -1.15))
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


def write_report(run_dir: Path, rows: Rows, folder: Path, config: str) -> Path:
    """Writes `report.html` and its figures in `plots/`; the path of the report.

    Arguments:
        rows: of `table.csv`, in the order to show them.
        folder: that holds the portraits.
        config: the benchmark's options, as text.
    """
    portraits = {}
    for row in rows:
        path = folder / f"{row['world']}-{row['predictor']}-{row['seed']}.npz"
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
    )
    tiles = [
        Tile(f"{row['recall']:.0%} · {row['total_variation']:.3f}", f"{row['world']}: ways found, variation")
        for row in rows
        if row["predictor"] == "mixture" and row["recall"] is not None
    ]
    subtitle = "Which futures there are, and how likely each is, held against the true law"
    return write_table_report(run_dir, "Multiple futures", subtitle, figures, tiles, config)
