"""Films of episodes, with what the agent expected drawn beneath what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gje_world.plots.style import BLUE, GREEN, INK, MUTED, ORANGE, styled
from gje_world.training.atomic import replacing

Image = npt.NDArray[np.uint8]  # [H, W, 3]

_STRIP_HEIGHT = 76  # pixels of one curve
_AXIS_HEIGHT = 26  # pixels of the time axis beneath the last curve
_DPI = 100
_CURSOR = np.array([34, 48, 60], dtype=np.uint8)


def write_film(
    path: Path | str,
    frames: Image,
    *,
    uncertainty: Sequence[float] | npt.NDArray[np.floating] | None = None,
    surprise: Sequence[float] | npt.NDArray[np.floating] | None = None,
    rewards: Sequence[float] | npt.NDArray[np.floating] | None = None,
    fps: float = 25.0,
    scale: int = 4,
) -> Path:
    """Writes an episode as an mp4 (H.264) that any browser plays; the file is whole or absent.

    Arguments:
        path: the file to write; missing parents are made.
        frames: uint8 `[T, H, W, 3]`, one an agent step.
        uncertainty: `[T]`, the standard deviation predicted for the next embedding at each step; drawn in
            a strip under the frames, bold up to the moment shown.
        surprise: `[T]`, of the belief at what each frame showed (nats per dimension), in a second strip.
        rewards: `[T]`, in a third.
        fps: frames a second of the film.
        scale: every pixel of a frame becomes `scale` × `scale`.

    Raises:
        ValueError: shapes or sizes that do not fit; the message gives them.
    """
    path = Path(path)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with T > 0, got {frames.dtype} {list(frames.shape)}"
        )
    if fps <= 0 or scale < 1:
        raise ValueError(f"fps must be positive and scale at least 1, got fps={fps}, scale={scale}")
    curves: list[tuple[str, str, npt.NDArray[np.float64]]] = []
    for label, color, values in (
        ("planner's predicted std", BLUE, uncertainty),
        ("surprise (nats a dimension)", ORANGE, surprise),
        ("reward", GREEN, rewards),
    ):
        if values is None:
            continue
        curve = np.asarray(values, dtype=np.float64)
        if curve.shape != (len(frames),):
            raise ValueError(f"{label}: {len(frames)} frames need as many values, got {list(curve.shape)}")
        curves.append((label, color, curve))
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    strips = _Strips(curves, len(frames), width) if curves else None
    full_height = height + (strips.height if strips else 0)
    canvas = np.full((full_height + full_height % 2, width + width % 2, 3), 255, dtype=np.uint8)

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = canvas.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "24", "preset": "veryfast", "threads": "1"}
        for index, frame in enumerate(frames):
            canvas[:height, :width] = frame.repeat(scale, axis=0).repeat(scale, axis=1)
            if strips:
                canvas[height:full_height, :width] = strips.at(index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class _Strips:
    """The curves under a film, drawn twice (what is to come faint, what has been bold) and cut together.

    Arguments:
        curves: label, colour and values `[T]` of each strip.
        length: T.
        width: pixels.
    """

    def __init__(
        self, curves: list[tuple[str, str, npt.NDArray[np.float64]]], length: int, width: int
    ) -> None:
        self.height = _STRIP_HEIGHT * len(curves) + _AXIS_HEIGHT
        self._ahead, columns = self._draw(curves, length, width, done=False)
        self._done, _ = self._draw(curves, length, width, done=True)
        self._columns = columns

    def at(self, index: int) -> Image:
        """The strips `[height, width, 3]` with the cursor at that agent step."""
        column = self._columns[index]
        image = self._ahead.copy()
        image[:, : column + 1] = self._done[:, : column + 1]
        image[4 : self.height - _AXIS_HEIGHT, column] = _CURSOR
        return image

    @styled
    def _draw(
        self, curves: list[tuple[str, str, npt.NDArray[np.float64]]], length: int, width: int, done: bool
    ) -> tuple[Image, npt.NDArray[np.int64]]:
        """The strips as an image, and the pixel column of every step."""
        figure = Figure(figsize=(width / _DPI, self.height / _DPI), dpi=_DPI)
        canvas = FigureCanvasAgg(figure)
        left, right = 34 / width, 1 - 8 / width
        for row, (label, color, values) in enumerate(curves):
            bottom = 1 - ((row + 1) * _STRIP_HEIGHT - 2) / self.height
            axes = figure.add_axes((left, bottom, right - left, (_STRIP_HEIGHT - 22) / self.height))
            self._strip(axes, label, color, values, done)
            axes.set_xlim(0, max(length - 1, 1))
            axes.tick_params(labelbottom=row == len(curves) - 1, labelsize=6, pad=2)
        axes.set_xlabel("agent step", fontsize=6, color=MUTED, labelpad=0)
        canvas.draw()
        points = np.stack([np.arange(length), np.zeros(length)], axis=1)
        columns = np.rint(axes.transData.transform(points)[:, 0]).astype(np.int64)
        return np.asarray(canvas.buffer_rgba())[..., :3].copy(), columns.clip(0, width - 1)

    @staticmethod
    def _strip(axes: Axes, label: str, color: str, values: npt.NDArray[np.float64], done: bool) -> None:
        steps = np.arange(len(values))
        values = np.where(np.isfinite(values), values, np.nan)  # a gap in the curve
        top = float(np.nanmax(values, initial=0.0)) or 1.0
        bottom = float(np.nanmin(values, initial=0.0))
        axes.plot(steps, values, color=color, linewidth=1.3 if done else 1.0, alpha=1.0 if done else 0.3)
        if done:
            axes.fill_between(steps, values, color=color, alpha=0.15, linewidth=0)
        axes.set_ylim(bottom, top * 1.08)
        axes.set_yticks([bottom, top] if bottom < 0 else [0, top], labels=[f"{bottom:.2g}", f"{top:.2g}"])
        axes.set_title(label, fontsize=6.5, color=INK, pad=3)
        axes.grid(axis="x", visible=False)
