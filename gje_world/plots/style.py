"""One look for every figure: a restrained palette, quiet axes, direct words."""

from __future__ import annotations

from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

INK = "#22303c"
MUTED = "#7b8794"
GRID = "#e6eaee"
BLUE = "#2c6e9c"
ORANGE = "#d2722a"
GREEN = "#4c8a5b"
PLUM = "#83548f"
GOLD = "#b8952c"
TEAL = "#3b8f91"
PALETTE = (BLUE, ORANGE, GREEN, PLUM, GOLD, TEAL)

STYLE: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures look alike everywhere
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # names come from files; a "$" in one is a dollar
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b8c1ca",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.4,
}

styled = matplotlib.rc_context(STYLE)
"""Decorator: what the function draws has the style of the house."""


def frames_axis(axes: Axes, label: bool = True) -> None:
    """Makes the x axis one of env frames: 0, 20k, 40k, ..."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlim(left=0)
    if label:
        axes.set_xlabel("env frames")
