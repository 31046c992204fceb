"""Figures of how far ahead a model sees, how sure it may be, and what surprises it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gje_world.plots.curves import numbers, series, smooth
from gje_world.plots.style import BLUE, GREEN, MUTED, ORANGE, PALETTE, styled

Rows = Sequence[Mapping[str, Any]]


def last_evaluation(rows: Rows) -> Mapping[str, Any] | None:
    """The newest row of an evaluation."""
    return next((row for row in reversed(rows) if row["kind"] == "eval"), None)


@styled
def steps_ahead(rows: Rows) -> Figure | None:
    """Scores at each step ahead: likelihood and the marginal's, energy score, sharpness, coverage error."""
    row = last_evaluation(rows)
    if row is None:
        return None
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    likelihood, energy, sharpness, coverage = figure.subplots(2, 2).flat
    steps = np.arange(1, len(row["foresight/nll"]) + 1)
    likelihood.plot(steps, numbers(row["foresight/nll"]), "o-", color=BLUE, markersize=3, label="belief")
    likelihood.plot(
        steps, numbers(row["foresight/marginal_nll"]), "--", color=MUTED, label="marginal Gaussian"
    )
    likelihood.set_title("NLL (nats per dimension)")
    likelihood.legend()
    for axes, name, title in (
        (energy, "energy", "energy score"),
        (sharpness, "sharpness", "mean predicted std"),
        (coverage, "coverage_error", "largest coverage error at 50, 90, 95 %"),
    ):
        axes.plot(steps, numbers(row[f"foresight/{name}"]), "o-", color=BLUE, markersize=3)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    coverage.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (sharpness, coverage):
        axes.set_xlabel("steps ahead")
    return figure


@styled
def calibration(rows: Rows) -> Figure | None:
    """Coverage curve, and histogram of the ranks of what happened among draws (PIT), by steps ahead."""
    row = last_evaluation(rows)
    if row is None:
        return None
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    curve, ranks = figure.subplots(1, 2)
    curve.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
    steps = sorted(int(name.rpartition("_")[2]) for name in row if name.startswith("calibration/observed_"))
    for step, color in zip(steps, (BLUE, ORANGE), strict=False):
        word = f"{step} step{'s' if step > 1 else ''} ahead"
        observed = numbers(row[f"calibration/observed_{step}"])
        curve.plot(numbers(row["calibration/nominal"]), observed, "o-", color=color, markersize=3, label=word)
        counts = numbers(row[f"calibration/pit_{step}"])
        height = counts / max(counts.mean(), 1e-12)
        ranks.stairs(height, np.linspace(0, 1, len(counts) + 1), color=color, linewidth=1.4, label=word)
    for axis in (curve.xaxis, curve.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    curve.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel="observed coverage")
    curve.legend(loc="upper left")
    ranks.axhline(1, color=MUTED, linestyle="--", linewidth=1)
    ranks.set(xlim=(0, 1), xlabel="rank among draws", title="ranks of what happened, each dimension")
    ranks.set_ylim(bottom=0)
    return figure


@styled
def pictures(rows: Rows) -> Figure | None:
    """PSNR and SSIM of decoded futures by step ahead: the mean, samples, and the best of the samples."""
    row = last_evaluation(rows)
    if row is None or "pictures/psnr" not in row:
        return None
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR (dB)", "SSIM"), strict=True):
        for prefix, color, word in (
            ("", BLUE, "mean"),
            ("sample_", ORANGE, "samples, on average"),
            ("best_", GREEN, "best of the samples"),
        ):
            if (found := row.get(f"pictures/{prefix}{name}")) is not None:
                steps = np.arange(1, len(found) + 1)
                axes.plot(steps, numbers(found), "o-", color=color, markersize=3, label=word)
        axes.set(title=title, xlabel="steps ahead")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


@styled
def surprise_and_retrieval(rows: Rows) -> Figure | None:
    """AUROC of impossible events, and how well a belief finds its own future."""
    row = last_evaluation(rows)
    names = [name for name in row or () if name.startswith(("surprise/", "retrieval/mrr"))]
    if row is None or not names:
        return None
    figure = Figure(figsize=(7.2, 0.32 * len(names) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    words = [
        name.partition("/")[2].replace("_", " ").replace("mrr", "mean reciprocal rank, step")
        for name in names
    ]
    colors = [BLUE if name.startswith("surprise/") else GREEN for name in names]
    values = numbers(row[name] for name in names)
    axes.barh(words, values, color=colors, height=0.6)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        told = retrieval_words(row, name.rpartition("_")[2]) if name.startswith("retrieval/") else ""
        axes.text(value, place, f" {value:.3f}{told and f' ({told})'}", va="center", fontsize=7.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.7)
    axes.set_xticks(np.linspace(0, 1, 6))
    return figure


def retrieval_words(row: Mapping[str, Any], step: int | str) -> str:
    """What a mean reciprocal rank is to be held against: the rank, and chance."""
    if "retrieval/candidates" not in row:  # a run of an earlier version
        return ""
    rank, candidates = row[f"retrieval/rank_{step}"], row["retrieval/candidates"]
    return f"mean rank {rank:.1f} of {candidates}, chance {row['retrieval/chance_mrr']:.3f}"


@styled
def probes(rows: Rows) -> Figure | None:
    """R² of linear probes of the true state, from embeddings and from the mean of a belief far ahead."""
    row = last_evaluation(rows)
    prefix = "probe/r2/"
    names = [name.removeprefix(prefix) for name in row or () if name.startswith(prefix)]
    if row is None or not names:
        return None
    figure = Figure(figsize=(7.2, 0.34 * len(names) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(names))
    ahead = len(row["foresight/nll"])
    for offset, kind, color, word in (
        (-0.19, "r2", BLUE, "from the embedding"),
        (0.19, "ahead_r2", ORANGE, f"from the mean belief {ahead} steps ahead"),
    ):
        values = numbers(row[f"probe/{kind}/{name}"] for name in names)
        axes.barh(places + offset, values.clip(0, 1), color=color, height=0.36, label=word)
        for place, value in zip(places + offset, values, strict=True):
            if value < 0:  # worse than to tell the mean
                axes.text(0.005, place, f"{value:.2g}", va="center", fontsize=6, color=color)
    if f"probe/stays_r2/{names[0]}" in row:  # a run of an earlier version has none
        stays = numbers(row[f"probe/stays_r2/{name}"] for name in names).clip(0, 1)
        axes.plot(stays, places + 0.19, "|", color=MUTED, markersize=7, label="if all stayed where it is")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1), xlabel="R² of linear probe")
    axes.legend(loc="lower right")
    return figure


@styled
def learning(rows: Rows) -> Figure | None:
    """Terms of the loss and the gauges of collapse, over updates."""
    panels = list(dict.fromkeys(name for row in rows if row["kind"] == "train" for name in row))
    panels = [name for name in panels if name.startswith(("loss/", "belief/"))]
    names = ("std", "effective_rank", "between_clips")
    gauges = [f"embedding/{name}" for name in names] if last_evaluation(rows) else []
    if not panels:
        return None
    lines = -(-len(panels + gauges) // 4)
    figure = Figure(figsize=(7.2, 1.9 * lines), layout="constrained")
    grid = list(figure.subplots(lines, 4, squeeze=False).flat)
    for index, (axes, name) in enumerate(zip(grid, panels + gauges, strict=False)):
        steps, values = series(rows, "eval" if name in gauges else "train", name)
        color = PALETTE[0]
        if name in gauges:
            axes.plot(steps, values, "o-", color=color, markersize=3)
        else:
            mark = "" if len(steps) > 1 else "."
            axes.plot(steps, values, mark, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smooth(values), mark, color=color)
        axes.set_title(name.partition("/")[2].replace("_", " ") if name in panels else name.replace("/", " "))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        if index >= len(panels + gauges) - 4:
            axes.set_xlabel("updates")
    for axes in grid[len(panels + gauges) :]:
        axes.remove()
    return figure
