"""Pictures of futures: a grid of the true one beside what a model expects, its directions, a film of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gje_world.plots.film import write_film
from gje_world.plots.style import INK, MUTED, styled

Image = npt.NDArray[np.uint8]

CELL = 0.78  # inches of a picture in a figure
COLUMNS = 8  # most steps of a future that a grid shows
GAP = 3  # pixels between the pictures of a film
ACROSS = 3  # clips that a film shows one under the other


def as_image(picture: Tensor) -> Image:
    """uint8 `[C, h, w]` as `[h, w, 3]`: grey as three equal channels, of stacked frames the newest."""
    newest = picture[-3:] if len(picture) >= 3 else picture[:1].expand(3, -1, -1)
    return newest.permute(1, 2, 0).numpy()


@styled
def futures_grid(past: Tensor, truth: Tensor, mean: Tensor, samples: Tensor) -> Figure:
    """One clip: what was seen and what came after it, what was expected, sampled futures, where they differ.

    Arguments:
        past: uint8 `[T, C, h, w]`; the last two are shown.
        truth, mean: `[H, C, h, w]`.
        samples: `[S, H, C, h, w]`.
    """
    steps = np.unique(np.linspace(0, len(truth) - 1, min(COLUMNS, len(truth))).round().astype(int)).tolist()
    spread = samples.float().std(0).mean(1)  # [H, h, w]
    named = [("what happened", truth), ("mean", mean)]
    named += [(f"future {index + 1}", sample) for index, sample in enumerate(samples)]
    before = past[-2:]
    rows, columns = len(named) + 1, len(before) + len(steps)
    figure = Figure(figsize=(CELL * columns + 1.1, CELL * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (name, pictures) in zip(grid, named, strict=False):
        for axes, frame in zip(row, before, strict=False):
            picture(axes, as_image(frame) if row is grid[0] else None)
        for axes, step in zip(row[len(before) :], steps, strict=True):
            picture(axes, as_image(pictures[step]))
        label(row[len(before)], name)
    for axes in grid[-1][: len(before)]:
        picture(axes, None)
    most = max(float(spread.max()), 1.0)
    for axes, step in zip(grid[-1][len(before) :], steps, strict=True):
        picture(axes, None)
        axes.imshow(spread[step], cmap="magma", vmin=0, vmax=most)
    label(grid[-1][len(before)], "uncertainty")
    for axes, back in zip(grid[0], range(len(before) - 1, -1, -1), strict=False):
        axes.set_title("now" if back == 0 else f"−{back}", color=MUTED, loc="center")
    for axes, step in zip(grid[0][len(before) :], steps, strict=True):
        axes.set_title(f"+{step + 1}", color=MUTED, loc="center")
    return figure


@styled
def directions_grid(directions: Tensor) -> Figure:
    """One clip: its belief's leading directions, from two standard deviations below the mean to two above.

    Arguments:
        directions: uint8 `[E, 3, C, h, w]`.
    """
    count = len(directions)
    figure = Figure(figsize=(1.5 * CELL * 4 + 1.1, 1.5 * CELL * count + 0.3), layout="constrained")
    grid = figure.subplots(count, 4, squeeze=False)
    for index, (row, pictures) in enumerate(zip(grid, directions, strict=True)):
        for axes, shown in zip(row, pictures, strict=False):
            picture(axes, as_image(shown))
        change = (pictures[2].float() - pictures[0].float()).mean(0)
        most = max(float(change.abs().max()), 1.0)
        picture(row[3], None)
        row[3].imshow(change, cmap="RdBu_r", vmin=-most, vmax=most)
        label(row[0], f"direction {index + 1}")
    for axes, title in zip(grid[0], ("−2 std", "mean", "+2 std", "difference"), strict=True):
        axes.set_title(title, color=MUTED, loc="center")
    return figure


def picture(axes: Axes, image: Image | None) -> None:
    """Show an image without axes; None: leave the place empty."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if image is not None:
        axes.imshow(image)


def label(axes: Axes, text: str) -> None:
    """A word to the left of a row."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7.5, color=INK)


def futures_film(path: Path, past: Tensor, truth: Tensor, mean: Tensor, samples: Tensor) -> Path:
    """Clips under each other, each as what happened, the mean, and sampled futures side by side.

    Arguments:
        past: uint8 `[N, T, C, h, w]`, shown before the future in every place.
        truth, mean: `[N, H, C, h, w]`.
        samples: `[S, N, H, C, h, w]`.
    """
    lines = []
    for clip in range(min(ACROSS, len(truth))):
        futures = [truth[clip], mean[clip], *samples[:, clip]]
        lines.append([[as_image(f) for f in (*past[clip], *future)] for future in futures])
    frames = [
        tiled([[future[moment] for future in line] for line in lines]) for moment in range(len(lines[0][0]))
    ]
    pause = [frames[-1]] * 4  # before it begins again
    return write_film(path, np.stack(frames + pause), fps=6, scale=2)


def tiled(rows: Sequence[Sequence[Image]]) -> Image:
    """Images in rows, with white between them."""
    height, width, _ = rows[0][0].shape
    canvas = np.full(
        (len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = image
    return canvas
