"""The report of a pretraining run: `report.html` and the figures in `plots/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from gje_world.plots import curves
from gje_world.plots.page import Page, Tile, write_page
from gje_world.plots.report import figure_section
from gje_world.plots.style import BLUE, ORANGE, PALETTE, frames_axis, styled
from gje_world.training.metrics import read_metrics
from gje_world.training.run_directory import read_config

Rows = Sequence[Mapping[str, Any]]
REFRESH_SECONDS = 30
SCORES = {
    "eval/linear_accuracy": "linear probe, accuracy",
    "eval/knn_accuracy": "nearest neighbours, accuracy",
    "eval/state_r2": "linear probe of the true state, mean R²",
}


@styled
def learning_curves(rows: Rows) -> Figure | None:
    """What probes read from held-out embeddings, over updates; the untrained encoder is at 0."""
    found = {label: curves.series(rows, "eval", name) for name, label in SCORES.items()}
    found = {label: line for label, line in found.items() if len(line[0])}
    if not found:
        return None
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (label, (steps, values)), color in zip(found.items(), PALETTE, strict=False):
        axes.plot(steps, values, "o-", color=color, markersize=4, label=label)
        axes.annotate(
            f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(6, 0), textcoords="offset points",
            va="center", color=color, annotation_clip=False,
        )  # fmt: skip
    axes.legend(loc="lower right")
    updates_axis(axes)
    return figure


@styled
def gauges(rows: Rows) -> Figure | None:
    """Spread and effective rank of held-out embeddings, over updates."""
    panels = {
        "embedding/std": "embedding std",
        "embedding/effective_rank": "effective rank of the embeddings",
    }
    if not any(len(curves.series(rows, "eval", name)[0]) for name in panels):
        return None
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for axes, (name, title), color in zip(figure.subplots(1, 2), panels.items(), (BLUE, ORANGE), strict=True):
        axes.plot(*curves.series(rows, "eval", name), "o-", color=color, markersize=4)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        updates_axis(axes)
    return figure


@styled
def losses(rows: Rows) -> Figure | None:
    """Every term of the loss, and what else is logged while training, over updates."""
    names = list(
        dict.fromkeys(
            name
            for row in rows
            if row["kind"] == "train"
            for name in row
            if name.startswith(("loss/", "belief/"))
        )
    )
    if not names:
        return None
    columns = min(4, len(names))
    figure = Figure(figsize=(7.2, 1.9 * -(-len(names) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat
    for axes, name in zip(grid, names, strict=False):
        steps, values = curves.series(rows, "train", name)
        axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, curves.smooth(values), color=BLUE)
        axes.set_title(name)
        updates_axis(axes)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    return figure


def updates_axis(axes: Any) -> None:
    """Makes the x axis one of updates."""
    frames_axis(axes, label=False)
    axes.set_xlabel("updates")


FIGURES: tuple[tuple[str, str, str, Callable[[Rows], Figure | None]], ...] = (
    (
        "learning_curves",
        "What the encoder holds",
        "Probes are fitted anew at each evaluation, to embeddings of training images, and measured on "
        "held-out ones.",
        learning_curves,
    ),
    (
        "calibration",
        "Calibration of the beliefs",
        "How often the other view of a held-out image fell inside the region that was to hold it so often.",
        partial(curves.calibration_curve, unit="updates"),
    ),
    (
        "gauges",
        "Collapse gauges",
        "A collapse would show as both falling towards zero while the loss improves.",
        gauges,
    ),
    (
        "losses",
        "Losses",
        "The terms, the marginal one weighted; faint as logged, bold smoothed.",
        losses,
    ),
)


def write_report(run_dir: Path | str, *, running: bool = False) -> Path:
    """Writes `report.html` and the PNGs in `plots/` from what the run directory holds so far.

    Arguments:
        run_dir: a run directory of `gje-pretrain`.
        running: whether the run goes on; the page then reads itself again every half minute.
    """
    run_dir = Path(run_dir)
    config, rows = read_config(run_dir), read_metrics(run_dir / "metrics.jsonl")
    drawn = [(name, title, caption, draw(rows)) for name, title, caption, draw in FIGURES]
    sections = [
        figure_section(run_dir / "plots" / f"{name}.png", title, caption, figure)
        for name, title, caption, figure in drawn
        if figure is not None or name != "calibration"  # which a method without beliefs has not
    ]
    step = max((row["step"] for row in rows), default=0)
    total = config["engine"]["updates"]
    method, data = config["method"]["name"], config["data"]["name"]
    if "gje" in method:
        method = f"{method}, {config['objective']['name']}, {config['belief']['name']}"
    page = Page(
        title=f"{method} on {config['data']['task'] if data == 'frames' else data}",
        subtitle=f"{config['encoder']['name']} · seed {config['seed']} · {run_dir.name}",
        state="running" if running else ("finished" if step >= total else "stopped"),
        running=running,
        done=step / total,
        tiles=tiles(rows, step, total),
        sections=sections,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        refresh=REFRESH_SECONDS if running else None,
    )
    return write_page(run_dir, page)


def tiles(rows: Rows, step: int, total: int) -> list[Tile]:
    """The newest scores and speed."""
    found = []
    for name, label in {**SCORES, "calibration/gap": "calibration gap"}.items():
        values = curves.series(rows, "eval", name)[1]
        if len(values):
            found.append(Tile(f"{values[-1]:.3f}", label))
    speeds = curves.series(rows, "train", "speed/images_per_second")[1]
    speed = f"{speeds[-1]:,.0f}" if len(speeds) else "–"
    elapsed = str(timedelta(seconds=round(rows[-1]["time"]))) if rows else "–"
    return [
        *found,
        Tile(f"{step:,}", f"of {total:,} updates"),
        Tile(speed, "images/s"),
        Tile(elapsed, "elapsed"),
    ]
