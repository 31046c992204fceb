"""Predicted spread of every belief in its first thousand updates, on targets of scale 1e-3 to 1e3.

python benchmarks/cold_start.py [--csv results/cold_start.csv] [--plot results/cold_start.png]
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from measure import parser, write_csv
from rich.progress import track

from gje_world.beliefs import HEADS
from gje_world.evaluation.cold_start import EVERY, spread_while_learning
from gje_world.plots.style import styled

BELIEFS = [name for name in HEADS if name != "point"]
SCALES = (1e-3, 1.0, 1e3)


def scales(belief: str) -> tuple[float, ...]:
    """Those that make a difference: directions have none."""
    return (1.0,) if belief == "power_spherical" else SCALES


@styled
def draw(curves: dict[tuple[str, float, int], list[float]], path: Path) -> None:
    """One panel a belief, one colour a scale, one line a seed."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(3, 4, sharex=True, sharey=True).flatten()
    for panel, belief in zip(panels, BELIEFS, strict=False):
        for index, scale in enumerate(SCALES):  # one that has no curves still keeps its colour
            lines = [curve for (name, size, _), curve in curves.items() if (name, size) == (belief, scale)]
            for seed, line in enumerate(lines):
                label = f"targets × {scale:g}" if seed == 0 else None
                panel.plot(
                    [i * EVERY for i in range(len(line))], line, color=f"C{index}", lw=0.8, label=label
                )
        panel.axhline(1, color="black", lw=0.6)
        panel.set(yscale="log", title=belief)
        panel.yaxis.set_major_formatter("{x:g}")  # names may hold markup, so none is drawn as maths
    for panel in panels[len(BELIEFS) :]:
        panel.axis("off")
    panels[0].legend()
    figure.supxlabel("updates")
    figure.supylabel("predicted spread over that of the noise")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Learn, print a table, and write it and the figure where asked."""
    options = parser(__doc__)
    options.add_argument("--plot", type=Path, help="also draw the figure here")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--updates", type=int, default=1000)
    arguments = options.parse_args()
    torch.set_num_threads(1)  # the networks are small
    cells = [(b, s, seed) for b in BELIEFS for s in scales(b) for seed in range(arguments.seeds)]
    curves = {cell: spread_while_learning(*cell, arguments.updates) for cell in track(cells, "learning")}
    rows: list[dict[str, object]] = []
    for (belief, scale, seed), curve in curves.items():
        found = {"start": curve[0], "lowest": min(curve), "highest": max(curve), "end": curve[-1]}
        rows.append(
            {"belief": belief, "scale": scale, "seed": seed}
            | {name: f"{value:.4g}" for name, value in found.items()}
        )
        print("  ".join(f"{value!s:>12}" for value in rows[-1].values()))
    if arguments.csv is not None:
        write_csv(arguments.csv, rows)
    if arguments.plot is not None:
        draw(curves, arguments.plot)


if __name__ == "__main__":
    main()
