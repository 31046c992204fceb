"""Digits and gradients that a belief must not lose: in float32 far out, under autocast and no_grad, twice."""

import math

import pytest
import torch
from torch import distributions as td

from gje_world.beliefs import (
    DiagonalGaussian,
    DiagonalHead,
    LowRankGaussian,
    Mixture,
    PolarHead,
    PowerSpherical,
    PrecisionGaussian,
    ScaleMixture,
    StudentT,
    make_head,
)
from gje_world.beliefs.gamma import digamma_difference, log_gamma_ratio
from gje_world.beliefs.gaussian import cholesky


def relative(found, right):
    return float(((found.double() - right) / right).abs().max())


@pytest.mark.parametrize("step", [0.5, 1.0, 31.5, 2047.5])
def test_gamma_differences_are_right_in_float32_from_near_zero_to_far_out(step):
    x = torch.tensor([1e-3, 0.1, 1.2, 7.3, 60.0, 2e3, 3e4])
    exact = x.double()
    right = torch.lgamma(exact + step) - torch.lgamma(exact)
    torch.testing.assert_close(log_gamma_ratio(x, step).double(), right, rtol=2e-6, atol=2e-6)
    right = torch.digamma(exact + step) - torch.digamma(exact)
    torch.testing.assert_close(digamma_difference(x, step).double(), right, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dim, loading", [(256, 5.0), (512, 10.0), (4096, 30.0)])
def test_low_rank_densities_with_large_factors_are_right_to_1e_5_in_float32(dim, loading):
    generator = torch.Generator().manual_seed(0)
    factor = loading * torch.randn(3, dim, 8, generator=generator, dtype=torch.float64)
    zero, one = torch.zeros(3, dim, dtype=torch.float64), torch.ones(3, dim, dtype=torch.float64)
    oracle = td.LowRankMultivariateNormal(zero, factor, one)
    value = oracle.rsample((20,))
    single = LowRankGaussian(zero.float(), one.float(), factor.float())
    right = oracle.log_prob(value)
    size = right.abs() + 0.5 * dim * math.log(2 * math.pi)
    for found in (single.log_prob(value.float()), torch.stack([single.log_prob(v.float()) for v in value])):
        assert ((found.double() - right).abs() / size).max() < 1e-5
    # along a factor all but nothing is left of the distance, which must not come out below zero
    along = single.mahalanobis(0.1 * factor[..., 0].float())
    assert (along >= 0).all() and single.coverage(0.1 * factor[..., 0].float()).isfinite().all()


@pytest.mark.parametrize("dim, spread", [(64, 0.3), (64, 1.0), (128, 1.0)])
def test_blurring_a_full_belief_is_exact_in_float32_however_long_its_axes(dim, spread):
    generator = torch.Generator().manual_seed(0)
    lower = torch.eye(dim) + spread * torch.randn(4, dim, dim, generator=generator).tril(-1)
    error, tau = torch.randn(4, dim, generator=generator), 0.35
    found = PrecisionGaussian(torch.zeros(4, dim), lower).learning_log_prob(error, tau)
    precision = lower.double() @ lower.double().mT
    gram = torch.eye(dim, dtype=torch.float64) + tau**2 * precision  # of covariance + tau^2: gram / precision
    inverse = torch.linalg.solve(gram, precision)  # of the blurred covariance
    square = (error.double().unsqueeze(-2) @ inverse @ error.double().unsqueeze(-1))[..., 0, 0]
    trace = inverse.diagonal(dim1=-2, dim2=-1).sum(-1)
    right = -0.5 * (square + tau**2 * trace + dim * math.log(2 * math.pi) + gram.logdet())
    right = right + lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    assert relative(found, right) < 1e-5


@pytest.mark.parametrize("dim, log_concentration", [(2, 10.0), (8, 10.0), (64, 0.0), (4096, -5.0)])
def test_power_spherical_beliefs_are_right_to_1e_5_in_float32(dim, log_concentration):
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(5, dim, generator=generator), dim=-1)
    concentration = torch.full((5,), log_concentration).exp()
    single, exact = PowerSpherical(axis, concentration), PowerSpherical(axis.double(), concentration.double())
    alpha, beta = exact.alpha, exact.beta
    total = alpha + beta
    torch.testing.assert_close(exact.mean, axis.double() * ((alpha - beta) / total).unsqueeze(-1))
    normaliser = torch.lgamma(total) - torch.lgamma(alpha) - total * math.log(2) - beta * math.log(math.pi)
    expected = math.log(2) + torch.digamma(alpha) - torch.digamma(total)
    assert relative(single.entropy(), -normaliser - concentration.double() * expected) < 1e-5
    assert relative(single.mean, exact.mean) < 1e-5
    assert relative(single.variance, exact.variance) < 1e-5
    value = single.sample()
    cosine = (
        (axis.double() * value.double()).sum(-1) / value.double().norm(dim=-1) / axis.double().norm(dim=-1)
    )
    right = normaliser + concentration.double() * cosine.log1p()
    assert ((single.log_prob(value) - right).abs() / (right.abs() + dim)).max() < 1e-5


def test_a_student_t_of_many_degrees_of_freedom_is_nearly_gaussian_in_float32():
    value = torch.randn(50, 8)
    student = StudentT(torch.zeros(8), torch.ones(8), torch.tensor(1e4))
    gaussian = DiagonalGaussian(torch.zeros(8), torch.ones(8))
    torch.testing.assert_close(student.log_prob(value), gaussian.log_prob(value), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", ["low_rank", "flow"])
def test_looking_at_a_belief_without_a_graph_leaves_its_gradients_as_they_were(name):
    torch.manual_seed(0)
    head, features, value = make_head(name, 4, 3), torch.randn(5, 4), torch.randn(6, 5, 3)

    def gradients(look):
        torch.manual_seed(1)
        belief = head(features)
        if look:
            with torch.no_grad(), torch.random.fork_rng():
                belief.coverage(value), belief.entropy(), belief.variance
        score = belief.log_prob(value).sum() + belief.mean.sum() + belief.entropy().sum()
        return torch.autograd.grad(score, list(head.parameters()))

    for seen, unseen in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(seen, unseen)


def test_the_entropy_of_a_mixture_has_the_gradient_to_its_weights():
    # far apart the entropy is that of the choice and of the components
    logits = torch.tensor([1.0, -1.0], requires_grad=True)
    means = torch.tensor([[-100.0], [100.0]])
    belief = Mixture(logits.log_softmax(-1), DiagonalGaussian(means, torch.ones(2, 1)))
    (found,) = torch.autograd.grad(belief.entropy(), logits)
    (right,) = torch.autograd.grad(td.Categorical(logits=logits).entropy(), logits)
    torch.testing.assert_close(found, right, rtol=0.05, atol=0.05)
    assert right.abs().min() > 0.2


def test_a_low_rank_density_has_second_derivatives():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3), (2, 3), (2, 3, 2), (2, 3))
    parts = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    parts[1] = parts[1].exp()
    inputs = [part.requires_grad_() for part in parts]
    assert torch.autograd.gradgradcheck(lambda m, s, f, v: LowRankGaussian(m, s, f).log_prob(v), inputs)


@pytest.mark.parametrize("name", ["diagonal", "low_rank", "full", "full_covariance", "spectral", "student_t"])
def test_gradients_of_each_sample_are_those_of_each_alone(name):
    torch.manual_seed(0)
    head, features, value = make_head(name, 4, 6), torch.randn(5, 4), torch.randn(5, 6)
    each = torch.func.vmap(torch.func.grad(lambda f, v: head(f).log_prob(v)))(features, value)
    features.requires_grad_()
    (expected,) = torch.autograd.grad(head(features).log_prob(value).sum(), features)
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)


def scale_mixture(belief):
    return ScaleMixture(belief, torch.tensor([0.5, 1.0, 3.0]), torch.tensor([0.2, 0.5, 0.3]).log())


@pytest.mark.parametrize("changed", [lambda belief: belief, scale_mixture], ids=["as told", "calibrated"])
@pytest.mark.parametrize("name", ["diagonal", "low_rank", "full", "full_covariance", "spectral", "ensemble"])
def test_moments_and_samples_keep_float32_in_an_autocast_region(name, changed):
    torch.manual_seed(0)
    belief = changed(make_head(name, 4, 16)(3 * torch.randn(5, 4)))
    told = {}
    for region in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=region):
            told[region] = (
                belief.mean,
                belief.variance,
                belief.covariance_matrix,
                belief.rsample((3,)),
                belief.learning_log_prob(torch.zeros(5, 16), 0.35),
            )
    for inside, outside in zip(told[True], told[False], strict=True):
        assert inside.dtype == torch.float32
        torch.testing.assert_close(inside, outside)


def test_the_radius_of_a_polar_belief_learns_from_beyond_where_it_may_go():
    head = PolarHead(4, 3)
    torch.nn.init.constant_(head.radius.bias, -30.0)
    features = torch.zeros(1, 4)
    (-head(features).log_prob(torch.ones(1, 3))).sum().backward()
    assert float(head.radius.bias.grad[0]) < 0


def test_the_scales_of_a_large_diagonal_belief_depend_on_the_input_in_each_dimension():
    torch.manual_seed(0)
    head = DiagonalHead(16, 100)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    features = torch.randn(512, 16)
    std = (0.5 * features[:, :1] * torch.linspace(-1, 1, 100)).exp()  # of each dimension another way
    for _ in range(300):
        loss = -head(features).log_prob(std * torch.randn_like(std)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ratio = (head(features).stddev / std).log()
    assert ratio.square().mean().sqrt() < 0.15
    assert std.log().square().mean().sqrt() > 0.25


@pytest.mark.parametrize("bounds", [(-math.inf, 10.0), (-1000.0, 1000.0), (0.0, math.nan)])
def test_bounds_that_float32_cannot_hold_are_refused(bounds):
    with pytest.raises(ValueError, match="log_std_bounds"):
        make_head("diagonal", 4, 3, log_std_bounds=bounds)


@pytest.mark.parametrize("df", [2.0, 1e8, math.inf, math.nan])
def test_degrees_of_freedom_out_of_range_are_refused(df):
    with pytest.raises(ValueError, match="df must be above 2"):
        make_head("student_t", 4, 3, df=df)


def test_a_matrix_without_a_cholesky_factor_gives_no_numbers_that_look_right():
    good, bad = torch.eye(3), torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    factor = cholesky(torch.stack([good, bad]))
    torch.testing.assert_close(factor[0], good)
    assert factor[1].isnan().all()
    flat = torch.ones(2, 4, 4)  # rank one: three eigenvalues are 0
    assert cholesky(flat, 0.0).isfinite().all()
