"""Marginal terms against their formulas written out, and against what they must not miss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gje_world.objectives import gaussian_kl, sigreg, variance_covariance
from gje_world.objectives.marginal import MARGINALS

TERMS = [term for name, term in MARGINALS.items() if name != "none"]


def epps_pulley(x):
    """The statistic of `x [N]` over N: its integral in closed form, a sum over pairs."""
    pairs = (-0.5 * (x.unsqueeze(0) - x.unsqueeze(1)).square()).exp().mean()
    cross = (-0.25 * x.square()).exp().mean()
    return math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * cross + 1 / math.sqrt(3))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 0.8), st.floats(-1.0, 1.0), st.integers(2, 200))
def test_in_one_dimension_sigreg_is_the_statistic_of_epps_and_pulley(scale, shift, count):
    torch.manual_seed(count)
    z = shift + scale * torch.randn(count, 1, dtype=torch.float64)
    # with one dimension, all directions are the same but for the sign, which does not matter
    torch.testing.assert_close(sigreg(z), epps_pulley(z.squeeze(1)), rtol=0, atol=2e-4)


def test_sigreg_looks_along_random_directions():
    torch.manual_seed(0)
    z = 0.7 * torch.randn(500, 8, dtype=torch.float64)
    torch.manual_seed(1)
    found = sigreg(z)
    torch.manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(8, 256, dtype=torch.float64), dim=0)
    expected = torch.stack([epps_pulley(x) for x in (z @ directions).T]).mean()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_the_terms_of_vicreg_are_those_of_its_paper():
    z = 0.7 * torch.randn(300, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    covariance = torch.cov(z.T, correction=0)
    variance = sum(max(0.0, 1 - math.sqrt(float(v) + 1e-4)) for v in covariance.diagonal()) / 5
    across = sum(float(covariance[i, j]) ** 2 for i in range(5) for j in range(5) if i != j) / 5
    assert float(variance_covariance(z)) == pytest.approx(variance + across / 25, rel=1e-9)


@pytest.mark.parametrize("term", TERMS)
def test_leading_dimensions_are_one_batch(term):
    z = torch.randn(60, 4)
    losses = []
    for shape in ((60, 4), (5, 12, 4)):
        torch.manual_seed(0)
        losses.append(term(z.reshape(shape)))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("term", TERMS)
def test_a_standard_normal_is_best(term):
    torch.manual_seed(0)
    z = torch.randn(4000, 6)
    best = term(z)
    assert best < 0.02
    for other in (0.3 * z, torch.cat([z[:, :3], z[:, :3]], 1)):
        assert term(other) > best + 0.02


@pytest.mark.parametrize(
    "term, recovers", [(gaussian_kl, True), (variance_covariance, True), (sigreg, False)]
)
def test_whether_a_term_pushes_embeddings_apart_that_have_shrunk_to_a_point(term, recovers):
    """SIGReg has no gradient at a point: its push falls with the scale."""
    torch.manual_seed(0)
    base = torch.randn(256, 8)
    pushes = []
    for scale in (1e-1, 1e-3):
        z = (scale * base).requires_grad_()
        term(z).backward()
        pushes.append(float(-(z.grad * base).sum()))
    assert all(push > 0 for push in pushes)
    assert (pushes[1] > 0.05 * pushes[0]) is recovers


def test_sigreg_sees_what_a_covariance_cannot():
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (4000, 1)).float() * 2 - 1
    two_modes = 0.98 * signs + 0.2 * torch.randn(4000, 1)  # unit variance, but not normal
    assert gaussian_kl(two_modes) < 0.01 and variance_covariance(two_modes) < 0.01
    assert sigreg(two_modes) > 0.05


@pytest.mark.parametrize("dim", [4, 256, 1024])
def test_the_gaussian_term_is_never_below_zero(dim):
    z = torch.linalg.qr(torch.randn(4 * dim, dim, generator=torch.Generator().manual_seed(0))).Q
    z = z - z.mean(0)
    assert 0 <= float(gaussian_kl(z * (4 * dim) ** 0.5)) < 0.05
