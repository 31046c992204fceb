"""VJE, VI-SimSiam, beta-NLL and moment matching against their formulas written out in float64."""

import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from gje_world.beliefs import DiagonalGaussian, PowerSpherical
from gje_world.objectives import VJE, ConditionalGJE, VISimSiam

DIM = 4


@pytest.fixture
def prediction():
    torch.manual_seed(0)
    mean, std = torch.randn(6, DIM), 0.3 + torch.rand(6, DIM)
    return DiagonalGaussian(mean, std), torch.randn(6, DIM)


@pytest.mark.parametrize("df", [1.5, 4.0, 50.0])
def test_the_bound_is_that_of_its_parts(prediction, df):
    belief, target = prediction
    torch.manual_seed(1)
    loss = VJE(DIM, df=df).predict(belief, target)
    torch.manual_seed(1)
    sample = belief.rsample()
    for i in range(6):
        at, around = (math.sqrt(DIM) * F.normalize(z[i], dim=-1).double().numpy() for z in (target, sample))
        direction = scipy.stats.multivariate_t(around, belief.variance[i].double().diag().numpy(), df=df)
        radii = [float(z[i].norm()) / math.sqrt(DIM) for z in (target, sample)]
        radius = scipy.stats.t(df, radii[1]).logpdf(radii[0])
        variance, mean = belief.variance[i].double(), belief.mean[i].double()
        kl = 0.5 * float((variance + mean.square() - 1 - variance.log()).sum())
        expected = -(direction.logpdf(at) + radius - kl) / DIM
        assert float(loss[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_heavy_tails_bound_the_pull_of_a_target_on_the_far_side():
    """The gradient of a Student-t's logarithm is bounded; a Gaussian's grows with the distance in scales."""
    torch.manual_seed(0)
    pulls = []
    for df in (3.0, 1e6):
        mean = torch.ones(1, DIM, requires_grad=True)
        belief = DiagonalGaussian(mean, torch.full((1, DIM), 0.01))
        VJE(DIM, df=df).predict(belief, -torch.ones(1, DIM) + 0.1 * torch.randn(1, DIM)).sum().backward()
        pulls.append(float(mean.grad.norm()))
    assert 100 * pulls[0] < pulls[1]


def test_vi_simsiam_is_the_likelihood_of_a_direction_relative_to_the_uniform():
    torch.manual_seed(0)
    direction, target = F.normalize(torch.randn(5, DIM), dim=-1), torch.randn(5, DIM, requires_grad=True)
    area = 2 * math.pi ** (DIM / 2) / math.gamma(DIM / 2)
    belief = PowerSpherical(direction, torch.full((5,), 3.0))
    loss = VISimSiam(DIM).predict(belief, target)
    expected = -(belief.log_prob(F.normalize(target, dim=-1)) + math.log(area)) / DIM
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad  # SimSiam's stop-gradient
    ignorant = PowerSpherical(direction, torch.full((5,), 1e-6))
    torch.testing.assert_close(VISimSiam(DIM).predict(ignorant, target), torch.zeros(5), rtol=0, atol=1e-5)


def grads(objective, belief_of, target):
    mean, std = (torch.full((1, DIM), value).requires_grad_() for value in (0.2, 0.5))
    objective.predict(belief_of(mean, std), target).sum().backward()
    return mean.grad, std.grad


def test_beta_nll_weighs_the_likelihoods_gradients_by_a_power_of_the_variance():
    target = torch.randn(1, DIM)
    plain = grads(ConditionalGJE(DIM), DiagonalGaussian, target)
    for beta in (0.25, 1.0):
        weighed = grads(ConditionalGJE(DIM, beta=beta), DiagonalGaussian, target)
        for a, b in zip(weighed, plain, strict=True):
            torch.testing.assert_close(a, b * 0.25**beta)
    mean_grad, _ = grads(ConditionalGJE(DIM, beta=1.0), DiagonalGaussian, target)
    torch.testing.assert_close(mean_grad, (0.2 - target) / DIM)  # those of half the squared error


def test_beta_nll_at_a_finite_resolution_weighs_the_blurred_variance():
    target = torch.randn(1, DIM)
    options = {"resolution": 0.35}
    plain = grads(ConditionalGJE(DIM, **options), DiagonalGaussian, target)
    weighed = grads(ConditionalGJE(DIM, beta=0.5, **options), DiagonalGaussian, target)
    for a, b in zip(weighed, plain, strict=True):
        torch.testing.assert_close(a, b * (0.25 + 0.35**2) ** 0.5)


def test_moment_matching_finds_mean_and_variance():
    torch.manual_seed(0)
    target = 1.5 + 0.6 * torch.randn(4000, 1)
    mean, std = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([mean, std], lr=0.05)
    objective = ConditionalGJE(1, fit="moments")
    for _ in range(300):
        loss = objective.predict(DiagonalGaussian(mean.expand(4000, 1), std.expand(4000, 1)), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(mean, target.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(std, target.std(0), rtol=0, atol=5e-3)


def test_a_target_at_the_origin_has_a_bounded_gradient(prediction):
    belief, _ = prediction
    target = torch.zeros(6, DIM, requires_grad=True)
    VJE(DIM).predict(belief, target).sum().backward()
    assert target.grad.isfinite().all()
    assert target.grad.abs().max() < 1e4
