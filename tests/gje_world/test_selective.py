"""Risk-coverage curves and rank correlation, where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from gje_world.evaluation.selective import aurc, rank_correlation, risk_coverage


def test_the_curve_of_four_points_by_hand() -> None:
    coverage, risk = risk_coverage(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(coverage, torch.tensor([0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(risk, torch.tensor([0, 1 / 2, 2 / 3, 2 / 4]))


def test_whoever_knows_its_errors_has_the_least_area_and_whoever_has_them_backwards_the_most() -> None:
    error = (torch.rand(10_000, generator=Generator().manual_seed(0)) < 0.3).float()
    r = float(error.mean())
    # with all errors last, the risk is 0 up to coverage 1 - r: the area is r + (1 - r) ln(1 - r)
    assert aurc(error, error) == pytest.approx(r + (1 - r) * math.log(1 - r), abs=1e-3)
    shuffled = torch.rand(10_000, generator=Generator().manual_seed(1))
    assert aurc(shuffled, error) == pytest.approx(r, abs=0.03)
    assert aurc(-error, error) > aurc(shuffled, error) > aurc(error, error)


def test_an_uncertainty_that_says_nothing_gains_nothing_whatever_the_order() -> None:
    error = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert aurc(torch.zeros(4), error) == pytest.approx(0.5)
    assert aurc(torch.zeros(4), error.flip(0)) == pytest.approx(0.5)


def test_rank_correlation_sees_order_alone() -> None:
    x = torch.linspace(0, 1, 50)
    assert rank_correlation(x, x.exp()) == pytest.approx(1)
    assert rank_correlation(-x, x.pow(3)) == pytest.approx(-1)
    assert math.isnan(rank_correlation(x, torch.zeros(50)))
