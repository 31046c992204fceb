"""The joint Gaussian: the trap it sets, the identities of its forms, its conditional in closed form."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from gje_world.beliefs import DiagonalGaussian, Point
from gje_world.objectives import JointGJE, condition, joint_moments, moments
from gje_world.objectives.gje_joint import log_density


@pytest.fixture
def pairs():
    """Correlated float64 contexts and targets `[400, 4]`."""
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    return context @ mixing + 0.5, 2.0 + context + 0.7 * noise


@pytest.fixture(autouse=True)
def no_ridge(monkeypatch):
    """Identities hold without the ridge."""
    monkeypatch.setattr(
        "gje_world.objectives.gje_joint.cholesky", lambda covariance, *_: torch.linalg.cholesky(covariance)
    )


def canonical_correlations(context, target):
    directions = [torch.linalg.qr(z - z.mean(0)).Q for z in (context, target)]
    return torch.linalg.svdvals(directions[0].mT @ directions[1])


def objective(form, shrinkage=0.0):
    return JointGJE(4, form=form, shrinkage=shrinkage)


def test_the_mean_mahalanobis_distance_of_a_batch_is_its_dimension():
    z = torch.randn(50, 6, dtype=torch.float64)
    mean, covariance = moments(z)
    distance = ((z - mean) @ covariance.inverse() * (z - mean)).sum(-1)
    assert float(distance.mean()) == pytest.approx(6, abs=1e-9)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_of_a_batch_no_larger_than_the_dimension_it_is_the_rank_of_the_covariance(count):
    z = torch.randn(count, 6, dtype=torch.float64)
    mean, covariance = moments(z)
    distance = ((z - mean) @ torch.linalg.pinv(covariance, rtol=1e-9) * (z - mean)).sum(-1)
    rank = int(torch.linalg.matrix_rank(covariance, rtol=1e-9))
    assert rank == count - 1 and float(distance.mean()) == pytest.approx(rank, abs=1e-9)


def test_so_the_trapped_loss_has_the_gradient_of_the_log_determinant_alone(pairs):
    z = torch.cat(pairs, -1).requires_grad_()
    mean, covariance = moments(z)
    (-log_density(z, mean, covariance).mean()).backward()
    expected = (z - mean) @ covariance.inverse() / len(z)
    torch.testing.assert_close(z.grad, expected)


@pytest.mark.parametrize("form, dims", [("primal", 2), ("conditional", 1), ("scale_free", 0)])
def test_what_scaling_all_embeddings_gains(pairs, form, dims):
    before = objective(form).couple(*pairs).mean()
    for scale in (1e-3, 0.5, 10.0):
        after = objective(form).couple(*(scale * z for z in pairs)).mean()
        assert float(after - before) == pytest.approx(dims * math.log(scale), abs=1e-9)


def test_shrinkage_keeps_the_scale_free_form_free_of_each_dimensions_scale(pairs):
    scales = torch.tensor([1e-2, 1.0, 3.0, 50.0], dtype=torch.float64)
    before = objective("scale_free", 0.2).couple(*pairs)
    after = objective("scale_free", 0.2).couple(pairs[0] * scales, pairs[1] * scales.flip(0))
    torch.testing.assert_close(before, after)


def test_the_log_determinant_of_pairs_is_that_of_the_context_and_of_the_target_given_it(pairs):
    mean, covariance = joint_moments(*pairs)
    conditional = condition(mean, covariance, pairs[0])
    whole = torch.logdet(covariance)
    parts = torch.logdet(covariance[:4, :4]) + 2 * conditional.half_log_det[0]
    torch.testing.assert_close(whole, parts)


def test_the_conditional_is_that_of_the_formula_and_the_ratio_of_densities(pairs):
    mean, covariance = joint_moments(*pairs)
    belief = condition(mean, covariance, pairs[0])
    cc, tc, tt = covariance[:4, :4], covariance[4:, :4], covariance[4:, 4:]
    regression = tc @ cc.inverse()
    expected_mean = mean[4:] + (pairs[0] - mean[:4]) @ regression.mT
    torch.testing.assert_close(belief.mean, expected_mean)
    torch.testing.assert_close(belief.covariance_matrix[0], tt - regression @ tc.mT)
    joint = MultivariateNormal(mean, covariance).log_prob(torch.cat(pairs, -1))
    context = MultivariateNormal(mean[:4], cc).log_prob(pairs[0])
    torch.testing.assert_close(belief.log_prob(pairs[1]), joint - context)
    torch.testing.assert_close(objective("conditional").couple(*pairs), -belief.log_prob(pairs[1]) / 4)


def test_the_scale_free_form_is_that_of_the_canonical_correlations(pairs):
    loss = objective("scale_free").couple(*pairs).mean()
    correlations = canonical_correlations(*pairs)
    torch.testing.assert_close(loss, 0.5 * (1 - correlations.square()).log().sum() / 4)


def test_with_few_pairs_correlations_saturate_and_shrinkage_bounds_what_that_gains():
    torch.manual_seed(0)
    context, target = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    plain = objective("scale_free").couple(context, target).mean()
    shrunk = objective("scale_free", 0.5).couple(context, target).mean()
    assert plain < -0.3  # though they know nothing of each other
    assert plain < shrunk < 0.1


def test_the_coupling_trains_both_embeddings_and_the_likelihood_the_belief_alone():
    torch.manual_seed(0)
    mean, std, target = (torch.rand(64, 4, requires_grad=True) for _ in range(3))
    joint = JointGJE(4)
    joint.couple(mean, target).mean().backward()
    coupled = target.grad.clone()
    target.grad = None
    joint.predict(DiagonalGaussian(mean, std + 0.1), target).mean().backward()
    torch.testing.assert_close(target.grad, coupled)
    assert std.grad.abs().sum() > 0
    torch.testing.assert_close(joint.predict(Point(mean), target), joint.couple(mean, target))
