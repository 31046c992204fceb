"""Scores of a belief against other libraries, and against what they must mean."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gje_world.beliefs import DiagonalGaussian
from gje_world.evaluation.scores import LEVELS, coverage_error, energy_score, mass_near, mode_recall


def gaussians(count, dim, seed=0):
    torch.manual_seed(seed)
    return DiagonalGaussian(torch.randn(count, dim), torch.rand(count, dim) + 0.5)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_the_energy_score_is_that_of_scoringrules(dim):
    scoringrules = pytest.importorskip("scoringrules")
    belief = gaussians(5, dim)
    samples, value = belief.sample((40,)), belief.sample()
    expected = scoringrules.energy_score(
        value.double().numpy(), samples.movedim(0, 1).double().numpy(), estimator="fair"
    )
    np.testing.assert_allclose(energy_score(samples, value).numpy(), expected, rtol=1e-5)


def test_of_a_number_the_energy_score_is_the_continuous_ranked_probability_score():
    scoringrules = pytest.importorskip("scoringrules")
    belief = gaussians(5, 1)
    samples, value = belief.sample((40,)), belief.sample()
    expected = scoringrules.crps_ensemble(value[:, 0].numpy(), samples[..., 0].mT.numpy(), estimator="fair")
    np.testing.assert_allclose(energy_score(samples, value).numpy(), expected, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-10, 10), seed=st.integers(0, 1000))
def test_the_energy_score_moves_with_nothing_and_scales_with_the_unit(scale, offset, seed):
    belief = gaussians(3, 4, seed)
    samples, value = belief.sample((20,)).double(), belief.sample().double()
    moved = energy_score(scale * (samples + offset), scale * (value + offset))
    torch.testing.assert_close(moved, scale * energy_score(samples, value))


def test_no_belief_has_a_better_energy_score_than_the_truth():
    torch.manual_seed(0)
    truth = DiagonalGaussian(torch.zeros(4000, 3), torch.ones(4000, 3))
    others = [
        DiagonalGaussian(truth.mean + 0.5, truth.stddev),
        DiagonalGaussian(truth.mean, 1.5 * truth.stddev),
        DiagonalGaussian(truth.mean, 0.5 * truth.stddev),
    ]
    value = truth.sample()
    best, *worse = (energy_score(belief.sample((30,)), value).mean() for belief in (truth, *others))
    assert all(score > best + 0.01 for score in worse)


def test_one_draw_is_no_sample_to_score_by():
    with pytest.raises(ValueError, match="samples must hold at least 2 draws, got 1"):
        energy_score(torch.zeros(1, 5, 2), torch.zeros(5, 2))


def test_the_mass_near_a_mode_is_that_of_the_chi_square_distribution():
    torch.manual_seed(0)
    mass = mass_near(torch.randn(200_000, 1, 2), torch.zeros(1, 1, 2), 2.0)
    assert float(mass) == pytest.approx(1 - np.exp(-2), abs=5e-3)


def two_points(share, count=1000):
    """Draws `[S, 1, 1]`, that share of them at 1 and the rest at -1."""
    return torch.where(torch.arange(count) < share * count, 1.0, -1.0).reshape(-1, 1, 1)


MODES = torch.tensor([[[1.0], [-1.0], [float("nan")]]])


@pytest.mark.parametrize("share, recall", [(0.5, 1.0), (0.26, 1.0), (0.24, 0.5), (0.0, 0.5), (1.0, 0.5)])
def test_a_mode_is_found_with_half_of_its_mass(share, recall):
    assert float(mode_recall(two_points(share), two_points(0.5), MODES, 0.1)) == recall


def test_a_mean_between_the_modes_finds_none():
    assert float(mode_recall(torch.zeros(1000, 1, 1), two_points(0.5), MODES, 0.1)) == 0


def test_coverage_errors_are_those_of_netcal():
    regression = pytest.importorskip("netcal.metrics.regression")
    belief = gaussians(2000, 1)
    value = belief.mean + 1.3 * (belief.sample() - belief.mean)  # wider than the belief says
    moments = belief.mean.numpy(), belief.stddev.numpy()
    held = regression.PICP().measure(moments, value.numpy(), q=np.array(LEVELS), reduction="none").picp
    found = coverage_error(belief.coverage(value))
    assert (found > 0.05).all()
    np.testing.assert_allclose(found.numpy(), np.abs(held.squeeze() - LEVELS), atol=1e-6)


def test_what_is_calibrated_has_no_coverage_error():
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    torch.testing.assert_close(coverage_error(uniform), torch.zeros(3), rtol=0, atol=2e-4)
    assert float(coverage_error(torch.ones(100)).max()) == pytest.approx(0.95)
