"""A film holds every frame, and beneath it what was predicted so far."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from gje_world.plots.film import write_film


def _episode(length: int = 20, size: int = 64) -> np.ndarray:
    """Frames of one grey each, brighter from one to the next."""
    grey = np.linspace(40, 220, length).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (length, size, size, 3))


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_frame_is_there_in_its_order_and_brightness(tmp_path: Path) -> None:
    frames = _episode()
    path = write_film(tmp_path / "films" / "a.mp4", frames, fps=12.5)
    film = _decode(path)
    assert film.shape == (20, 256, 256, 3)
    np.testing.assert_allclose(film.mean(axis=(1, 2, 3)), frames.mean(axis=(1, 2, 3)), atol=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 12.5)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size, scale", [(63, 1), (65, 3), (84, 2)])
def test_odd_sizes_are_made_even(tmp_path: Path, size: int, scale: int) -> None:
    film = _decode(write_film(tmp_path / "a.mp4", _episode(3, size), scale=scale))
    expected = size * scale + size * scale % 2
    assert film.shape == (3, expected, expected, 3)


def test_the_curve_is_bold_up_to_the_moment_shown(tmp_path: Path) -> None:
    film = _decode(write_film(tmp_path / "a.mp4", _episode(), uncertainty=np.full(20, 0.3)))
    assert film.shape[1] > 256
    strip = film[:, 256 + 22 : 256 + 30].astype(int).sum(axis=-1)  # where this constant curve lies
    darkest = strip.min(axis=1)  # [T, columns] over the few rows
    column_of = np.linspace(34, 247, 20).round().astype(int)  # the strip's axes span these columns
    for step in range(2, 18):
        assert darkest[step, column_of[step] - 1 : column_of[step] + 2].min() < 250  # the cursor
        assert darkest[step, column_of[0] + 4 : column_of[step] - 5].max() < 450  # bold behind it
        assert darkest[step, column_of[step] + 6 : column_of[-1]].min() > 500  # faint ahead of it


def test_a_strip_for_each_curve_given(tmp_path: Path) -> None:
    curve = np.linspace(0, 1, 20)
    every = write_film(tmp_path / "all.mp4", _episode(), uncertainty=curve, surprise=curve, rewards=curve)
    both = _decode(write_film(tmp_path / "both.mp4", _episode(), uncertainty=curve, rewards=curve))
    one = _decode(write_film(tmp_path / "one.mp4", _episode(), rewards=curve))
    assert _decode(every).shape[1] > both.shape[1] > one.shape[1] > 256


@pytest.mark.parametrize(
    "values", [[float("nan")] * 20, [0.0] * 20, [-1.0] * 20, [float("nan"), float("inf"), 1e9, -1e9] * 5]
)
def test_any_values_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    assert len(_decode(write_film(tmp_path / "a.mp4", _episode(), uncertainty=values))) == 20


def test_one_frame_is_a_film(tmp_path: Path) -> None:
    assert len(_decode(write_film(tmp_path / "a.mp4", _episode(1), uncertainty=[0.1]))) == 1


def test_what_does_not_fit_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\] with T > 0, got float64 \[2, 4, 4, 3\]"):
        write_film(path, np.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"T > 0, got uint8 \[0, 4, 4, 3\]"):
        write_film(path, np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"predicted std: 20 frames need as many values, got \[19\]"):
        write_film(path, _episode(), uncertainty=np.zeros(19))
    with pytest.raises(ValueError, match="fps=0"):
        write_film(path, _episode(), fps=0)
    assert list(tmp_path.iterdir()) == []


def test_a_long_episode_of_noisy_curves_is_small(tmp_path: Path) -> None:
    frames = _episode(500).copy()
    for index, frame in enumerate(frames):  # a square that goes around
        x, y = (28 + 20 * np.array([np.cos(index / 10), np.sin(index / 10)])).astype(int)
        frame[y : y + 8, x : x + 8] = (220, 60, 60)
    noise = np.random.default_rng(0).random(500)
    path = write_film(tmp_path / "a.mp4", frames, uncertainty=noise, rewards=noise)
    assert path.stat().st_size < 1_000_000
