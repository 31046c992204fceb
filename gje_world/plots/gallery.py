"""Pictures of futures: a grid of the true one beside what a model expects, its directions, a film of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from gje_world.plots.film import write_film
from gje_world.plots.style import INK, ORANGE, styled

Image = npt.NDArray[np.uint8]

CELL = 0.78  # inches of a picture in a figure
MARGIN = 1.0  # inches left of them, for words
COLUMNS = 8  # most steps of a future that a grid shows
GAP = 3  # pixels between the pictures of a film
SEEN, FORETOLD = "white", ORANGE  # colours there, while what was seen is shown, and after
ACROSS = 3  # clips that a film shows one under the other


def as_image(picture: Tensor) -> Image:
    """uint8 `[C, h, w]` as `[h, w, 3]`: grey as three equal channels, of stacked frames the newest."""
    newest = picture[-3:] if len(picture) >= 3 else picture[:1].expand(3, -1, -1)
    return newest.permute(1, 2, 0).numpy()


def futures_grid(past: Tensor, truth: Tensor, mean: Tensor, samples: Tensor) -> Figure:
    """One clip: what was seen and what came after it, what was expected, sampled futures, where they differ.

    Arguments:
        past: uint8 `[T, C, h, w]`; the last two are shown.
        truth, mean: `[H, C, h, w]`.
        samples: `[S, H, C, h, w]`.
    """
    steps = np.unique(np.linspace(0, len(truth) - 1, min(COLUMNS, len(truth))).round().astype(int)).tolist()
    before = [as_image(frame) for frame in past[-2:]]
    empty = np.full_like(before[0], 255)
    spread = samples.float().std(0).mean(1)[steps]  # [H, h, w]
    heat = coloured(spread.numpy() / max(float(spread.max()), 1.0), "magma")
    named = {"what happened": truth, "mean": mean}
    named |= {f"future {index + 1}": sample for index, sample in enumerate(samples)}
    rows = [[as_image(pictures[step]) for step in steps] for pictures in named.values()] + [list(heat)]
    lines = [(before if index == 0 else [empty] * len(before)) + row for index, row in enumerate(rows)]
    columns = [f"−{back}" if back else "now" for back in range(len(before) - 1, -1, -1)]
    return picture_table(lines, [*named, "uncertainty"], columns + [f"+{step + 1}" for step in steps])


def directions_grid(directions: Tensor) -> Figure:
    """One clip: its belief's leading directions, from two standard deviations below the mean to two above.

    Arguments:
        directions: uint8 `[E, 3, C, h, w]`.
    """
    change = (directions[:, 2].float() - directions[:, 0].float()).mean(1).numpy()  # [E, h, w]
    signed = coloured(0.5 + 0.5 * change / max(float(np.abs(change).max()), 1.0), "RdBu_r")
    lines = [
        [*map(as_image, pictures), difference]
        for pictures, difference in zip(directions, signed, strict=True)
    ]
    names = [f"direction {index + 1}" for index in range(len(lines))]
    return picture_table(lines, names, ["−2 std", "mean", "+2 std", "difference"])


def heat_grid(frames: Tensor, heat: Tensor) -> Figure:
    """The newest frame of clips, and what of it the next belief rests on.

    Arguments:
        frames: uint8 `[M, C, h, w]`.
        heat: `[M, h, w]`, positive where the belief is less sure if the place is hidden.
    """
    signed = coloured(0.5 + 0.5 * heat.numpy() / max(float(heat.abs().max()), 1e-6), "RdBu_r")
    lines = [[as_image(frame) for frame in frames], list(signed)]
    return picture_table(
        lines, ["newest frame", "entropy"], [f"clip {index + 1}" for index in range(len(heat))]
    )


def coloured(values: npt.NDArray[np.floating], name: str) -> Image:
    """`values [..., h, w]` from 0 to 1 in the colours of a map, `[..., h, w, 3]`."""
    return matplotlib.colormaps[name](values, bytes=True)[..., :3]


@styled
def picture_table(lines: Sequence[Sequence[Image]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Pictures in lines, with a word for each row and column."""
    table = tiled(lines)
    height, width = (side + GAP for side in lines[0][0].shape[:2])
    size = CELL * len(columns) + MARGIN, CELL * len(rows) + 0.3
    figure = Figure(figsize=size)
    place = (MARGIN / size[0], 0, 1 - MARGIN / size[0], 1 - 0.3 / size[1])
    axes = figure.add_axes(place)
    axes.imshow(table, interpolation="nearest", aspect="auto")
    axes.set_yticks([height * (index + 0.5) for index in range(len(rows))], rows, color=INK)
    axes.set_xticks([width * (index + 0.5) for index in range(len(columns))], columns)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def futures_film(path: Path, past: Tensor, truth: Tensor, mean: Tensor, samples: Tensor) -> Path:
    """Clips under each other, each as what happened, the mean, and sampled futures side by side.

    Arguments:
        past: uint8 `[N, T, C, h, w]`, shown before the future in every place.
        truth, mean: `[N, H, C, h, w]`.
        samples: `[S, N, H, C, h, w]`.

    Around the pictures it is white while what was seen is shown, and orange as soon as what is foretold is.
    """
    lines = []
    for clip in range(min(ACROSS, len(truth))):
        futures = [truth[clip], mean[clip], *samples[:, clip]]
        lines.append([[as_image(f) for f in (*past[clip], *future)] for future in futures])
    frames = [
        tiled(
            [[future[moment] for future in line] for line in lines],
            SEEN if moment < past.shape[1] else FORETOLD,
        )
        for moment in range(len(lines[0][0]))
    ]
    pause = [frames[-1]] * 4  # before it begins again
    return write_film(path, np.stack(frames + pause), fps=6, scale=2)


def tiled(rows: Sequence[Sequence[Image]], between: str = SEEN) -> Image:
    """Images in rows, with that colour between them."""
    height, width, _ = rows[0][0].shape
    size = len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP
    canvas = np.full((*size, 3), np.round(255 * np.array(to_rgb(between))), dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = image
    return canvas
