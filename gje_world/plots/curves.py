"""Figures drawn from the rows of a `metrics.jsonl`; each function gives None while there is nothing to draw.

Rows are dicts with "step" (env frames), "kind" and the metrics by name, as `read_metrics` gives them. The
figures belong to no window and no global state; `figure.savefig(path)` writes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gje_world.plots.style import BLUE, MUTED, ORANGE, PALETTE, frames_axis, styled

Rows = Sequence[Mapping[str, Any]]
Array = npt.NDArray[np.float64]

LOWEST_R2 = -0.06  # at which lower ones are drawn

_LOSS_TITLES = {
    "loss/total": "total",
    "loss/nll": "NLL (nats per dimension)",
    "loss/marginal": "marginal term",
    "loss/spread": "NLL of errors held fixed",
    "loss/reward": "reward",
    "loss/value": "value",
    "loss/termination": "terminal states",
    "loss/policy": "policy",
    "loss/grad_norm": "gradient norm",
}


@styled
def learning_curve(rows: Rows) -> Figure | None:
    """Returns over env frames: training episodes as faint dots, evaluations as mean ± standard deviation."""
    steps, returns = series(rows, "episode", "episode/return")
    eval_steps, means = series(rows, "eval", "eval/return_mean")
    if not len(steps) and not len(eval_steps):
        return None
    figure = Figure(figsize=(7.2, 3.5), layout="constrained")
    axes = figure.add_subplot()
    if len(steps):
        axes.plot(steps, returns, ".", color=MUTED, alpha=0.45, markersize=4, label="training episode")
    if len(eval_steps):
        _, deviations = series(rows, "eval", "eval/return_std")
        if len(deviations) == len(means):
            axes.fill_between(
                eval_steps, means - deviations, means + deviations, color=BLUE, alpha=0.16, linewidth=0
            )
        axes.plot(eval_steps, means, "o-", color=BLUE, markersize=4, label="evaluation, mean ± std")
        axes.annotate(
            f"{means[-1]:.0f}",
            (eval_steps[-1], means[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=BLUE,
            weight="bold",
            annotation_clip=False,
        )
    axes.set_ylabel("episode return")
    axes.legend(loc="lower right" if _rises(returns, means) else "upper right")
    frames_axis(axes)
    return figure


@styled
def calibration_curve(rows: Rows, unit: str = "frames") -> Figure | None:
    """Share of outcomes inside the belief's regions against the share promised; the ideal is the diagonal."""
    curves = [
        (row["step"], row["calibration/nominal"], row["calibration/observed"])
        for row in rows
        if row["kind"] == "eval" and "calibration/nominal" in row and "calibration/observed" in row
    ]
    if not curves:
        return None
    figure = Figure(figsize=(4.2, 3.9), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
    axes.text(0.04, 0.93, "under-confident", color=MUTED, fontsize=7.5, va="top")
    axes.text(0.97, 0.06, "over-confident", color=MUTED, fontsize=7.5, ha="right")
    earlier, (step, nominal, observed) = curves[:-1], curves[-1]
    for index, (_, before_nominal, before_observed) in enumerate(earlier):
        faint = 0.12 + 0.3 * (index + 1) / len(earlier)
        label = "earlier evaluations" if index == len(earlier) - 1 else None
        axes.plot(
            numbers(before_nominal), numbers(before_observed), color=BLUE, alpha=faint, lw=1, label=label
        )
    axes.plot(
        numbers(nominal),
        numbers(observed),
        "o-",
        color=BLUE,
        markersize=3.5,
        label=f"at {step:,} {unit}",
        lw=2,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel="observed coverage")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    return figure


@styled
def collapse_gauges(rows: Rows) -> Figure | None:
    """What would show a collapse of the embeddings, or beliefs that do not know what they do not know."""
    panels = {
        "embedding std": ("train", "embedding/std"),
        "effective rank of the embeddings": ("train", "embedding/effective_rank"),
        "belief NLL (nats per dimension)": ("train", "belief/nll"),
        "mean predicted std": ("train", "belief/std"),
        "predicted std of the next embedding": ("episode", "planner/uncertainty"),
    }
    coverages = {0.5: "belief/coverage_50", 0.9: "belief/coverage_90"}
    named = [("train", name) for name in coverages.values()] + list(panels.values())
    if not any(len(series(rows, kind, name)[0]) for kind, name in named):
        return None
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    grid = figure.subplots(2, 3).flat
    for axes, (title, (kind, name)) in zip(grid, panels.items(), strict=False):
        _gauge(axes, *series(rows, kind, name), BLUE)
        axes.set_title(title)
        if name != "belief/nll":
            axes.set_ylim(bottom=0)
    axes = figure.axes[len(panels)]
    for (target, name), color in zip(coverages.items(), (BLUE, ORANGE), strict=True):
        axes.axhline(target, color=color, linestyle="--", linewidth=0.9, alpha=0.7)
        _gauge(axes, *series(rows, "train", name), color)
    axes.set_title("coverage of belief regions")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_yticks([0, *coverages, 1])
    axes.set_ylim(0, 1.02)
    for index, axes in enumerate(figure.axes):
        frames_axis(axes, label=index >= 3)
    return figure


@styled
def state_probe(rows: Rows) -> Figure | None:
    """R² of a linear probe of the true state from the embedding, one panel for each observable."""
    prefix = "probe/r2/"
    names = list(
        dict.fromkeys(
            name for row in rows if row["kind"] == "eval" for name in row if name.startswith(prefix)
        )
    )
    if not names:
        return None
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.removeprefix(prefix).split("[")[0], []).append(name)
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(max(3.6, 2.4 * columns), 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for axes, (group, members) in zip(grid, groups.items(), strict=False):
        for index, name in enumerate(members):
            steps, scores = series(rows, "eval", name)
            label = name.removeprefix(f"{prefix}{group}")
            color = PALETTE[index % len(PALETTE)]
            dashes = ("-", "--", ":", "-.")[index // len(PALETTE) % 4]
            drawn = scores.clip(LOWEST_R2)  # below 0 the probe is worse than the mean: how much says nothing
            axes.plot(steps, drawn, dashes, marker="o", markersize=3, color=color, label=label or None)
        axes.set_title(group)
        axes.axhline(1, color=MUTED, linestyle="--", linewidth=0.9)
        axes.set_ylim(LOWEST_R2 - 0.04, 1.06)
        if any(name.endswith("]") for name in members):
            axes.legend(loc="best", ncols=-(-len(members) // 6), columnspacing=0.8)
        frames_axis(axes)
    for axes in figure.axes[::columns]:
        axes.set_ylabel("R² of linear probe")
    for axes in figure.axes[len(groups) :]:
        axes.remove()
    return figure


@styled
def losses(rows: Rows) -> Figure | None:
    """Every term of the loss, and the gradient's norm, over env frames."""
    present = [name for name in _LOSS_TITLES if len(series(rows, "train", name)[0])]
    if not present:
        return None
    columns = min(4, len(present))
    lines = -(-len(present) // columns)
    figure = Figure(figsize=(7.2, 1.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, name in zip(grid, present, strict=False):
        _gauge(axes, *series(rows, "train", name), BLUE)
        axes.set_title(_LOSS_TITLES[name])
        frames_axis(axes)
    for axes in figure.axes[len(present) :]:
        axes.remove()
    return figure


def series(rows: Rows, kind: str, name: str) -> tuple[Array, Array]:
    """Steps `[N]` and values `[N]` of one metric, in the order logged; null (a NaN when logged) is NaN."""
    found = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
    return numbers(step for step, _ in found), numbers(value for _, value in found)


def numbers(values: Iterable[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def smooth(values: Array, windows: int = 30) -> Array:
    """Centred running mean over 1/`windows` of the curve; NaNs are left out, the ends use what there is."""
    half = len(values) // (2 * windows)
    if half == 0:
        return values
    kernel = np.ones(2 * half + 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(np.float64), kernel, mode="same")
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _gauge(axes: Axes, steps: Array, values: Array, color: str) -> None:
    """A curve logged at many steps: faint as logged, bold smoothed."""
    if not len(steps):
        axes.text(0.5, 0.5, "not logged yet", transform=axes.transAxes, ha="center", color=MUTED)
        return
    alone = "o" if len(steps) == 1 else None  # a line of one point cannot be seen
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8, marker=alone, markersize=3)
    axes.plot(steps, smooth(values), color=color)


def _rises(returns: Array, means: Array) -> bool:
    curve = means if len(means) > 1 else returns
    return len(curve) < 2 or curve[-1] >= curve[0]
