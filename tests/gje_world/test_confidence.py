"""Calibration of class probabilities: against netcal, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from netcal.metrics import ECE
from torch import Generator, Tensor

from gje_world.evaluation.confidence import (
    brier,
    calibration_error,
    calibration_floor,
    confidence_scores,
    fit_temperature,
    reliability,
    resampled_calibration_errors,
)


def _predictions(count: int = 5000, classes: int = 5, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from `softmax(logits / sharpness)`: calibrated where that is 1."""
    generator = Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return sharpness * logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_equal_width_agrees_with_netcal(sharpness: float) -> None:
    logits, y = _predictions(sharpness=sharpness)
    probabilities = logits.softmax(-1)
    expected = ECE(15).measure(probabilities.numpy().astype(np.float64), y.numpy())
    assert calibration_error(probabilities, y) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_equal_mass_agrees_with_netcal(sharpness: float) -> None:
    logits, y = _predictions(4500, sharpness=sharpness)
    probabilities = logits.softmax(-1)
    expected = ECE(15, equal_intervals=False).measure(probabilities.numpy().astype(np.float64), y.numpy())
    # netcal's bin edges are quantiles found by interpolation, so that a point or two change bins
    assert calibration_error(probabilities, y, equal_mass=True) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_error_is_that_of_the_diagram(equal_mass: bool) -> None:
    logits, y = _predictions(sharpness=2.0)
    curve = reliability(logits.softmax(-1), y, equal_mass=equal_mass)
    gap = (curve.share * (curve.accuracy - curve.confidence).abs()).sum()
    assert calibration_error(logits.softmax(-1), y, equal_mass=equal_mass) == pytest.approx(
        float(gap), abs=1e-5
    )
    assert float(curve.share.sum()) == pytest.approx(1)


def test_certainty_does_not_hide_in_a_bin_of_its_own() -> None:
    # half of the points are certain and half of those wrong; the others are right, at 0.97, in the same bin
    probabilities = torch.tensor([[1.0, 0.0]] * 50 + [[0.97, 0.03]] * 50)
    y = torch.tensor([0] * 25 + [1] * 25 + [0] * 50)
    # in bins apart, the errors of opposite sign would not cancel: 0.5 * 0.5 + 0.5 * 0.03
    assert calibration_error(probabilities, y) == pytest.approx(0.985 - 0.75, abs=1e-5)


def test_a_calibrated_classifier_has_no_error_and_the_temperature_one() -> None:
    logits, y = _predictions(50_000)
    scores = confidence_scores(logits.softmax(-1), y)
    assert scores["ece"] < 0.01 and scores["ece_equal_mass"] < 0.01
    assert fit_temperature(logits, y) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sharpness", [0.2, 5.0, 100.0])
def test_the_temperature_undoes_what_made_the_logits_too_sharp(sharpness: float) -> None:
    logits, y = _predictions(20_000, sharpness=sharpness)
    assert fit_temperature(logits, y) == pytest.approx(sharpness, rel=0.04)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_floor_is_the_error_of_a_calibrated_classifier_and_the_standard_error_its_spread(
    equal_mass: bool,
) -> None:
    logits, _ = _predictions(2000)
    probabilities, generator = logits.softmax(-1), Generator().manual_seed(1)
    drawn = [torch.multinomial(probabilities, 1, generator=generator).squeeze(-1) for _ in range(200)]
    errors = torch.tensor([calibration_error(probabilities, y, equal_mass=equal_mass) for y in drawn])
    floor = calibration_floor(probabilities, equal_mass=equal_mass)
    assert floor == pytest.approx(float(errors.mean()), rel=0.05)
    spreads = [resampled_calibration_errors(probabilities, y, equal_mass=equal_mass).std() for y in drawn[:8]]
    assert 0.85 < float(torch.stack(spreads).mean() / errors.std()) < 1.4  # near the floor it errs upwards


def test_the_standard_error_is_that_of_a_share_where_there_is_but_one_gap() -> None:
    """Sure to 0.9 and right in half of the cases: the error is the gap, and its noise that of a share."""
    probabilities = torch.tensor([[0.9, 0.1]]).expand(400, 2)
    y = torch.arange(400) % 2
    assert float(resampled_calibration_errors(probabilities, y).std()) == pytest.approx(
        (0.25 / 400) ** 0.5, rel=0.15
    )


def test_classifiers_of_the_same_points_are_resampled_together() -> None:
    """Two that say the same differ in no draw; of two alike, the points' noise cancels in the difference."""
    logits, y = _predictions(2000, sharpness=3.0)
    sharp, sharper = (
        resampled_calibration_errors((factor * logits).softmax(-1), y) for factor in (1.0, 1.05)
    )
    assert torch.equal(sharp, resampled_calibration_errors(logits.softmax(-1), y))
    assert (sharper - sharp).std() < 0.3 * sharp.std()


def test_brier_of_what_can_be_reckoned_by_hand() -> None:
    y = torch.tensor([0, 1])
    assert brier(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), y) == pytest.approx(1.0)
    assert brier(torch.full((2, 4), 0.25), y) == pytest.approx(0.75)


def test_a_wrong_certainty_is_punished_but_finite() -> None:
    scores = confidence_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert scores == {
        "ece": pytest.approx(1.0, abs=1e-5),
        "ece_floor": 0.0,
        "ece_se": pytest.approx(0.0, abs=1e-6),
        "ece_equal_mass": pytest.approx(1.0),
        "ece_equal_mass_floor": 0.0,
        "ece_equal_mass_se": pytest.approx(0.0, abs=1e-6),
        "brier": pytest.approx(2.0),
        "nll": pytest.approx(-np.log(1e-12), rel=1e-5),
    }
