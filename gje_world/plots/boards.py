"""Boards: one score of every pair of two kinds of things, as numbers on a ground from green to red."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gje_world.plots.style import INK, MUTED, styled

Rows = Sequence[Mapping[str, Any]]

GOOD_TO_BAD = LinearSegmentedColormap.from_list("good to bad", ["#cfe3d4", "#fbf3dc", "#efc0a4"])
MISSING = "–"


def neither(_: float) -> float:
    """Of a number that is neither good nor bad."""
    return math.nan


class Board(NamedTuple):
    """A score: its title, its value in a row, if any, how it is written, and how bad it is, from 0 to 1."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    written: Callable[[float], str]
    badness: Callable[[float], float]


@styled
def draw_boards(rows: Rows, lines: str, columns: str, boards: Sequence[Board]) -> Figure:
    """Boards one below the other: mean over the rows of each pair of `row[lines]` and `row[columns]`."""
    down, across = (list(dict.fromkeys(row[name] for row in rows)) for name in (lines, columns))
    height = 0.27 * len(down) + 0.75
    figure = Figure(figsize=(0.72 * len(across) + 1.6, height * len(boards)), layout="constrained")
    for axes, board in zip(figure.subplots(len(boards), 1, squeeze=False).flat, boards, strict=True):
        shown = np.full((len(down), len(across)), np.nan)
        for i, line in enumerate(down):
            for j, column in enumerate(across):
                found = [board.value(row) for row in rows if (row[lines], row[columns]) == (line, column)]
                known = [number for number in found if number is not None]
                text = board.written(mean(known)) if known else MISSING
                if known:
                    shown[i, j] = board.badness(mean(known))
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=INK if known else MUTED)
        axes.imshow(shown, cmap=GOOD_TO_BAD, vmin=0, vmax=1, aspect="auto")
        axes.set_title(board.title)
        axes.set_xticks(range(len(across)), [name.replace("_", " ") for name in across])
        axes.set_yticks(range(len(down)), [name.replace("_", " ") for name in down])
        axes.grid(False)
        axes.tick_params(length=0)
    return figure
