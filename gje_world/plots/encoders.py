"""What encoders are worth, as figures and a page: accuracy, calibration, out-of-distribution, heatmaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gje_world.plots.page import Page, Section, Tile, write_page
from gje_world.plots.style import INK, MUTED, PALETTE, styled
from gje_world.training.atomic import replacing

Rows = Sequence[Mapping[str, Any]]
Arrays = Mapping[str, Mapping[str, npt.NDArray]]  # by encoder, then by what they are

CLASSIFIERS = ("linear", "knn", "projection", "projection_marginalised", "projection_weighted")
PANEL = 2.1  # inches
ACROSS = 4  # panels in a row
HEAT_LIMIT = 0.98  # share of pixels within the colour scale


@styled
def accuracies(rows: Rows) -> Figure | None:
    """Accuracy of each classifier on each encoder; or, where the data have states, their mean R²."""
    bars = [(f"{name}/accuracy", name.replace("_", " ")) for name in CLASSIFIERS]
    return _dots(rows, [*bars, ("state/r2", "state R²")], "accuracy on test images, or R²")


@styled
def detection(rows: Rows) -> Figure | None:
    """AUROC of each score on each set outside, a panel a set."""
    keys = [
        name.split("/") for row in rows for name in row if name.startswith("ood/") and name.endswith("/auroc")
    ]
    sets, scores = (list(dict.fromkeys(key[place] for key in keys)) for place in (1, 2))
    if not sets:
        return None
    figure = Figure(figsize=(6.4, (0.24 * len(rows) + 0.85) * len(sets)), layout="constrained")
    for axes, name in zip(figure.subplots(len(sets), 1, squeeze=False, sharex=True).flat, sets, strict=True):
        _draw_dots(axes, rows, [(f"ood/{name}/{score}/auroc", score) for score in scores])
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_title(name.replace("_", " "))
    axes.set_xlabel("AUROC: 1 tells all apart, 0.5 none")
    figure.legend(*_legend(figure.axes), loc="outside upper center", ncols=6)
    return figure


@styled
def reliability(arrays: Arrays) -> Figure | None:
    """Reliability diagram of the linear probe on each encoder, as it is and by its temperature."""
    shown = {name: found for name, found in arrays.items() if "reliability_linear" in found}
    figure, panels = _panels(len(shown))
    for axes, (name, found) in zip(panels, shown.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        for kind, colour, label in (
            ("linear", PALETTE[0], "as it is"),
            ("linear_tempered", PALETTE[1], "by its temperature"),
        ):
            confidence, right, share = found[f"reliability_{kind}"]
            axes.plot(confidence, right, color=colour, label=label)
            axes.scatter(confidence, right, 120 * share + 2, color=colour, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        axes.set_title(name)
    if figure is not None:
        figure.legend(*_legend(figure.axes), loc="outside upper center", ncols=2)
    return figure


@styled
def risk_coverage(arrays: Arrays) -> Figure | None:
    """Error of the linear probe on the images kept, over the share kept, by each uncertainty."""
    kinds = [("risk_confidence", "by the probe's confidence"), ("risk_entropy", "by the belief's entropy")]
    kinds = [(kind, title) for kind, title in kinds if any(kind in found for found in arrays.values())]
    if not kinds:
        return None
    figure = Figure(figsize=(3.4 * len(kinds), 2.8), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, (kind, title) in zip(panels, kinds, strict=True):
        styles = cycle([(colour, line) for line in ("-", "--", ":") for colour in PALETTE])
        for (name, found), (colour, line) in zip(arrays.items(), styles, strict=False):
            if kind in found:
                axes.plot(*found[kind], label=name, color=colour, linestyle=line)
        axes.set(xlim=(0, 1), xlabel="share of images kept")
        axes.set_title(title)
    panels[0].set_ylabel("error")
    panels[0].set_ylim(bottom=0)
    figure.legend(*_legend(figure.axes), loc="outside upper center", ncols=3)
    return figure


@styled
def heatmaps(arrays: Arrays) -> Figure | None:
    """Images, and on them in red where hiding a part raises the uncertainty, in blue where it lowers it."""
    shown = {name: found for name, found in arrays.items() if "images" in found}
    if not shown:
        return None
    columns = max(len(found["images"]) for found in shown.values())
    figure = Figure(figsize=(0.85 * columns + 0.6, 2.75 * len(shown)), layout="constrained")
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (name, found) in zip(parts, shown.items(), strict=True):
        part.suptitle(f"{name}: {found['heat']}", fontsize=8.5, x=0.01, ha="left")
        grid = part.subplots(3, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        for line, kind in zip(grid, (None, "occlusion", "masking"), strict=True):
            line[0].set_ylabel(kind or "image", fontsize=7.5)
            for axes, image, heat in zip(line, found["images"], found[kind or "occlusion"], strict=False):
                if kind is None:
                    axes.imshow(image)
                    continue
                limit = max(float(np.quantile(np.abs(found[kind]), HEAT_LIMIT)), 1e-12)
                axes.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
                axes.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6)
    return figure


FIGURES: tuple[tuple[str, str, str, Callable[[Rows, Arrays], Figure | None]], ...] = (
    (
        "accuracies",
        "What is read off the embeddings",
        "A linear probe and a k-NN vote on embeddings; over the projection that beliefs are over, a linear "
        "probe, one fitted to the belief in place of its own point, and one on precision-weighted means.",
        lambda rows, arrays: accuracies(rows),
    ),
    (
        "reliability",
        "Reliability",
        "Of the images that the linear probe was so sure of, how many it got right; dots as large as the "
        "share of images. On the diagonal confidence means what it says.",
        lambda rows, arrays: reliability(arrays),
    ),
    (
        "risk_coverage",
        "Selective prediction",
        "Error of the linear probe where the images it is least sure of are left out.",
        lambda rows, arrays: risk_coverage(arrays),
    ),
    (
        "detection",
        "Out of distribution",
        "How well scores tell images unlike the data from test images. Surprise is how unlikely the belief "
        "holds other views of an image; joint adds the marginal, the distance to the Gaussian of what "
        "beliefs are over (of embeddings, where there are no beliefs); epistemic is how far an ensemble's "
        "members disagree. Entropy tells how much an image's "
        "views may differ, not whether it is new: it is shown to compare. The others stand on embeddings "
        "and labels.",
        lambda rows, arrays: detection(rows),
    ),
    (
        "heatmaps",
        "Where uncertainty comes from",
        "Red where hiding a part of the image raises the uncertainty, blue where it lowers it: by a sliding "
        "grey window, and by random masks.",
        lambda rows, arrays: heatmaps(arrays),
    ),
)


def write_report(run_dir: Path, rows: Rows, arrays: Arrays, config: str, *, title: str = "Encoders") -> Path:
    """Writes `report.html` and its figures in `plots/`; the path of the report.

    Arguments:
        rows: of `table.csv`, in the order to show them, each with its `encoder`.
        arrays: of `probe_encoder`, by encoder.
        config: the options, as text.
    """
    (run_dir / "plots").mkdir(parents=True, exist_ok=True)
    sections = []
    for name, heading, caption, draw in FIGURES:
        figure = draw(rows, arrays)
        if figure is None:
            continue
        path = run_dir / "plots" / f"{name}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
        sections.append(Section(heading, caption, "", path.read_bytes(), round(120 * figure.get_figwidth())))
    page = Page(
        title=title,
        subtitle=f"{len(rows)} on {', '.join(dict.fromkeys(str(row['data']) for row in rows))}",
        state="finished",
        running=False,
        done=1.0,
        tiles=[Tile(*tile) for tile in _best(rows)],
        sections=sections,
        config=config,
    )
    return write_page(run_dir, page)


def _best(rows: Rows) -> list[tuple[str, str]]:
    """Key figures: the best value of each measure that is there, and whose it is."""
    measures: tuple[tuple[str, str, Callable], ...] = (
        ("linear/accuracy", "linear", max),
        ("knn/accuracy", "k-NN", max),
        ("linear/ece", "ECE", min),
        ("state/r2", "state R²", max),
        ("ood/textures/surprise/auroc", "textures, AUROC by surprise", max),
    )
    tiles = []
    for name, title, best in measures:
        there = [row for row in rows if row.get(name) is not None]
        if there:
            row = best(there, key=lambda row, name=name: row[name])
            tiles.append((f"{row[name]:.3f}", f"{title}: {row['encoder']}"))
    return tiles


def _dots(rows: Rows, series: Sequence[tuple[str, str]], label: str) -> Figure | None:
    if not any(row.get(name) is not None for row in rows for name, _ in series):
        return None
    figure = Figure(figsize=(6.4, 0.24 * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots()
    _draw_dots(axes, rows, series)
    axes.set_xlabel(label)
    figure.legend(*_legend(figure.axes), loc="outside upper center", ncols=5)
    return figure


def _draw_dots(axes: Axes, rows: Rows, series: Sequence[tuple[str, str]]) -> None:
    """Values of each row on a line of its own, a colour and a marker for each of the `series`."""
    looks = cycle([(colour, marker) for marker in "oDs" for colour in PALETTE])
    for (name, label), (colour, marker) in zip(series, looks, strict=False):
        points = [(row[name], place) for place, row in enumerate(rows) if row.get(name) is not None]
        if points:
            values, places = zip(*points, strict=True)
            axes.scatter(values, places, 26, color=colour, marker=marker, label=label, zorder=3)
    axes.set_yticks(range(len(rows)), [str(row["encoder"]) for row in rows])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _panels(count: int) -> tuple[Figure | None, Sequence[Axes]]:
    """A figure of so many square panels; None where there is nothing to show."""
    if not count:
        return None, ()
    across = min(count, ACROSS)
    down = math.ceil(count / across)
    figure = Figure(figsize=(PANEL * across + 0.2, PANEL * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels


def _legend(panels: Sequence[Axes]) -> tuple[list, list]:
    """Handles and labels of all panels, each label once."""
    found = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    return list(found.values()), list(found)
