"""Gauges of collapse, linear probes and observed coverage give known values on known data."""

import pytest
import torch

from gje_world.evaluation import NOMINAL, collapse_gauges, linear_probe_r2, observed_coverage
from gje_world.evaluation.collapse import between_clips


def halves(*tensors):
    """Training and test halves, in the probe's order of arguments."""
    half = len(tensors[0]) // 2
    return [part for cut in (slice(None, half), slice(half, None)) for part in (t[cut] for t in tensors)]


def test_a_linear_map_is_probed_exactly_and_noise_not_at_all():
    torch.manual_seed(0)
    z = 0.01 * torch.randn(4000, 16) + 5  # the embedding's scale and offset do not matter
    linear = z @ torch.randn(16, 3) * 100 - 7
    noise = torch.randn(4000, 2)
    r2 = linear_probe_r2(*halves(z, torch.cat([linear, noise], 1)))
    assert r2.shape == (5,)
    assert (r2[:3] > 0.999).all()
    assert (r2[3:].abs() < 0.05).all()


def test_a_target_that_is_half_noise_is_half_explained():
    torch.manual_seed(0)
    z = torch.randn(20_000, 4)
    y = z[:, :1] + torch.randn(20_000, 1)
    assert float(linear_probe_r2(*halves(z, y))) == pytest.approx(0.5, abs=0.03)


def test_a_constant_target_has_no_r2():
    torch.manual_seed(0)
    z = torch.randn(200, 4)
    r2 = linear_probe_r2(*halves(z, torch.cat([torch.full((200, 1), 3.0), z[:, :1]], 1)))
    assert r2[0].isnan()
    assert r2[1] > 0.99


def test_collapsed_embeddings_are_probed_without_failing():
    torch.manual_seed(0)
    r2 = linear_probe_r2(*halves(torch.ones(200, 4), torch.randn(200, 1)))
    assert r2 <= 0.05


def gauges(z):
    return {name.removeprefix("embedding/"): float(value) for name, value in collapse_gauges(z).items()}


def test_isotropic_embeddings_have_full_rank_and_their_own_std():
    torch.manual_seed(0)
    found = gauges(0.3 * torch.randn(4, 5000, 16) + 2)
    assert found["std"] == pytest.approx(0.3, rel=0.02)
    assert found["effective_rank"] == pytest.approx(16, rel=0.01)


def test_embeddings_on_a_line_have_rank_one():
    torch.manual_seed(0)
    assert gauges(torch.randn(1000, 1) * torch.randn(16))["effective_rank"] == pytest.approx(1, abs=0.01)


def test_the_effective_rank_is_the_exponential_entropy_of_the_spectrum():
    shares = torch.tensor([0.5, 0.25, 0.25])
    # corners of a box whose half axes are the square roots of the eigenvalues
    corners = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0])] * 3)) * shares.sqrt()
    assert gauges(corners)["effective_rank"] == pytest.approx(2**1.5, rel=1e-5)


def test_fully_collapsed_embeddings_show_as_zero_std_and_least_rank():
    found = gauges(torch.full((100, 8), 0.7))
    assert found["std"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] <= 8  # finite


def test_what_is_constant_in_clips_and_what_moves_there_share_the_variance():
    torch.manual_seed(0)
    constant, moving = torch.randn(500, 1, 4), torch.randn(500, 40, 4)
    moving = moving - moving.mean(1, keepdim=True)
    for share in (0.0, 0.3, 1.0):
        found = between_clips(share**0.5 * constant + (1 - share) ** 0.5 * moving)
        assert found == pytest.approx(share, abs=0.03)


def test_gauges_carry_no_gradient():
    found = collapse_gauges(torch.randn(32, 4, requires_grad=True))
    assert not any(value.requires_grad for value in found.values())


def test_observed_coverage_is_the_share_of_points_inside():
    mass = torch.tensor([[0.05, 0.3], [0.5, 0.95]])
    observed = observed_coverage(mass, (0.1, 0.5, 0.9, 1.0))
    assert observed.tolist() == [0.25, 0.75, 0.75, 1.0]


def test_uniform_masses_lie_on_the_diagonal():
    mass = (torch.arange(10_000) + 0.5) / 10_000
    torch.testing.assert_close(observed_coverage(mass), torch.tensor(NOMINAL), rtol=0, atol=2e-4)
