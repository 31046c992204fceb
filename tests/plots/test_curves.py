"""Figures show the metrics as they are, and nothing where nothing was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gje_world.plots import curves

DRAWINGS = [
    curves.learning_curve,
    curves.calibration_curve,
    curves.collapse_gauges,
    curves.state_probe,
    curves.losses,
]


def _row(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "time": 0.0,
        "kind": kind,
        **{name.replace("__", "/"): v for name, v in values.items()},
    }


def _lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.get_lines()
    }


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_without_its_metrics_there_is_no_figure(draw: Any) -> None:
    assert draw([]) is None
    assert (
        draw([_row("train", 1, other=1.0), _row("episode", 1, other=1.0), _row("eval", 1, other=1.0)]) is None
    )


def test_the_learning_curve_has_episodes_evaluations_and_their_spread() -> None:
    rows = [
        _row("episode", 1000, episode__return=10.0),
        _row("eval", 1000, eval__return_mean=20.0, eval__return_std=5.0),
        _row("episode", 2000, episode__return=30.0),
        _row("eval", 2000, eval__return_mean=40.0, eval__return_std=6.0),
    ]
    (axes,) = curves.learning_curve(rows).axes
    lines = _lines(axes)
    assert lines["training episode"] == ([1000, 2000], [10, 30])
    assert lines["evaluation, mean ± std"] == ([1000, 2000], [20, 40])
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.y0, band.y1) == (15, 46)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("env frames", "episode return")


def test_the_latest_calibration_is_named_and_the_earlier_are_there() -> None:
    rows = [
        _row("eval", step, calibration__nominal=[0.1, 0.9], calibration__observed=[0.1 * step, 0.9])
        for step in (1, 2, 3)
    ]
    (axes,) = curves.calibration_curve(rows).axes
    lines = _lines(axes)
    assert lines["at 3 frames"] == ([0.1, 0.9], [pytest.approx(0.3), 0.9])
    observed = [line[1][0] for line in lines.values() if line[0] == [0.1, 0.9]]
    assert sorted(observed) == [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3)]
    assert ([0, 1], [0, 1]) in lines.values()  # the diagonal


def test_gauges_of_what_was_logged_and_targets_for_coverage() -> None:
    rows = [_row("train", 10, embedding__std=0.5, belief__coverage_50=0.4, belief__coverage_90=0.8)]
    figure = curves.collapse_gauges(rows)
    assert _titles(figure)[0] == "embedding std" and _titles(figure)[-1] == "coverage of belief regions"
    assert ([10], [0.5]) in _lines(figure.axes[0]).values()
    coverage = [line.get_ydata() for line in figure.axes[-1].get_lines()]
    flat = sorted({float(value) for line in coverage for value in line})
    assert flat == [0.4, 0.5, 0.8, 0.9]
    assert [text.get_text() for text in figure.axes[1].texts] == ["not logged yet"]


def test_the_probe_has_a_panel_for_each_observable() -> None:
    names = ["position[0]", "position[1]", "velocity[0]", "height"]
    rows = [
        _row("eval", step, **{f"probe__r2__{name}": 0.1 * index for index, name in enumerate(names)})
        for step in (1, 2)
    ]
    figure = curves.state_probe(rows)
    assert _titles(figure) == ["position", "velocity", "height"]
    assert _lines(figure.axes[0])["[1]"] == ([1, 2], [0.1, 0.1])


def test_losses_have_a_panel_each() -> None:
    rows = [_row("train", 5, loss__total=1.0, loss__value=2.0, loss__grad_norm=None)]
    figure = curves.losses(rows)
    assert _titles(figure) == ["total", "value", "gradient norm"]


def test_names_with_markup_are_drawn_as_they_are() -> None:
    r"""`$\x$` is an error in matplotlib's maths."""
    figure = curves.state_probe([_row("eval", 1, **{r"probe/r2/$\x$": 0.5})])
    FigureCanvasAgg(figure).draw()
    assert _titles(figure) == [r"$\x$"]


def test_a_smoothed_curve_keeps_constants_and_skips_what_is_missing() -> None:
    constant = np.full(500, 3.0)
    constant[7] = np.nan
    np.testing.assert_allclose(curves.smooth(constant), 3.0)
    short = np.array([1.0, 5.0])
    assert curves.smooth(short) is short
    noise = np.random.default_rng(0).normal(size=3000)
    assert curves.smooth(noise).std() < 0.15
    assert np.isnan(curves.smooth(np.full(500, np.nan))).all()
