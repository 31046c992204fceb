"""Beliefs are the distributions they claim to be, and their heads keep the likelihood finite."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from gje_world.beliefs import DiagonalGaussian, DiagonalHead, Mixture, Point, make_head
from gje_world.evaluation.futures_scores import rank_pit


def gaussian(*shape, seed=0, dtype=torch.float32):
    """A diagonal Gaussian with standard deviations between 0.1 and 2, and one target near each mean."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator, dtype=dtype)
    std = 0.1 + 1.9 * torch.rand(shape, generator=generator, dtype=dtype)
    value = mean + 2 * std * torch.randn(shape, generator=generator, dtype=dtype)
    return mean, std, value


def dense(mean, std):
    """The same distribution by torch's full-covariance formulas in float64."""
    return MultivariateNormal(mean.double(), torch.diag_embed(std.double().square()))


@pytest.mark.parametrize("dim", [1, 2, 64, 256])
def test_density_and_entropy_are_those_of_the_full_gaussian_in_float64(dim):
    mean, std, value = gaussian(50, dim)
    belief, reference = DiagonalGaussian(mean, std), dense(mean, std)
    assert belief.batch_shape == (50,)
    assert belief.event_shape == (dim,)
    # relative to the size of the sum's terms: the sum itself may pass through zero
    tolerance = {"rtol": 1e-5, "atol": 1e-6 * dim}
    torch.testing.assert_close(
        belief.log_prob(value).double(), reference.log_prob(value.double()), **tolerance
    )
    torch.testing.assert_close(belief.entropy().double(), reference.entropy(), **tolerance)
    torch.testing.assert_close(belief.variance.double(), reference.variance, rtol=1e-5, atol=0)


def test_samples_have_the_moments_of_the_full_gaussian():
    torch.manual_seed(0)
    mean, std, _ = gaussian(3, 4)
    samples = DiagonalGaussian(mean, std).rsample((100_000,)).double()
    reference = dense(mean, std)
    error = std.double() / math.sqrt(len(samples))  # standard error of the mean
    assert ((samples.mean(0) - reference.mean).abs() < 5 * error).all()
    centred = samples - samples.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / len(samples)
    scale = (std[:, :, None] * std[:, None, :]).double()
    # the standard error of a covariance is at most sqrt(2/N) of the product of the deviations
    assert ((covariance - reference.covariance_matrix).abs() < 5 * math.sqrt(2 / len(samples)) * scale).all()


def test_samples_carry_gradients_to_mean_and_std():
    mean, std, _ = gaussian(3, 4)
    mean.requires_grad_(), std.requires_grad_()
    torch.manual_seed(0)
    sample = DiagonalGaussian(mean, std).rsample()
    sample.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(std.grad, ((sample - mean) / std).detach())


def test_gradients_of_density_entropy_and_coverage_are_right():
    mean, std, value = (x.requires_grad_() for x in gaussian(2, 3, dtype=torch.float64))
    for quantity in (
        lambda m, s, v: DiagonalGaussian(m, s).log_prob(v),
        lambda m, s, v: DiagonalGaussian(m, s).entropy(),
        lambda m, s, v: DiagonalGaussian(m, s).coverage(v),
    ):
        assert torch.autograd.gradcheck(quantity, (mean, std, value))


@pytest.mark.parametrize("dim", [1, 2, 64])
def test_coverage_is_uniform_over_the_beliefs_own_samples(dim):
    torch.manual_seed(0)
    mean, std, _ = gaussian(dim)
    belief = DiagonalGaussian(mean, std)
    count = 20_000
    mass = belief.coverage(belief.sample((count,))).sort().values
    uniform = torch.arange(1, count + 1) / count
    # Kolmogorov–Smirnov distance; a right one exceeds this once in a thousand
    assert (mass - uniform).abs().max() < 1.95 / math.sqrt(count)


def test_what_is_not_a_number_is_in_no_region():
    one = DiagonalGaussian(torch.zeros(2, 3, 4), torch.ones(2, 3, 4))
    value = torch.zeros(2, 4)
    value[0, 0] = torch.nan
    many = Mixture(torch.zeros(2, 3).log_softmax(-1), one)
    for belief in (DiagonalGaussian(torch.zeros(2, 4), torch.ones(2, 4)), many):
        assert belief.coverage(value).isnan().tolist() == [True, False]
    place = rank_pit(torch.randn(9, 2, 4), value, torch.Generator().manual_seed(0))
    assert place.isnan().sum() == 1 and bool(place[0, 0].isnan())


def test_coverage_is_the_chi_square_mass_within_the_mahalanobis_distance():
    # closed forms: the normal's mass within m (D=1), Rayleigh's (D=2), and D=4
    m = torch.linspace(0, 5, 21)

    def coverage(dim):
        mean, std, _ = gaussian(dim)
        direction = torch.nn.functional.normalize(torch.arange(1.0, dim + 1), dim=0)
        return DiagonalGaussian(mean, std).coverage(mean + m[:, None] * direction * std)

    half = m.square() / 2
    for dim, mass in (
        (1, torch.erf(m / math.sqrt(2))),
        (2, 1 - torch.exp(-half)),
        (4, 1 - torch.exp(-half) * (1 + half)),
    ):
        torch.testing.assert_close(coverage(dim), mass, rtol=0, atol=2e-5)


def test_coverage_tells_narrow_beliefs_from_wide_ones():
    torch.manual_seed(0)
    mean, std, _ = gaussian(16)
    values = DiagonalGaussian(mean, std).sample((5000,))
    assert (DiagonalGaussian(mean, std / 2).coverage(values) <= 0.9).float().mean() < 0.1
    assert (DiagonalGaussian(mean, std * 2).coverage(values) <= 0.5).float().mean() > 0.95


def test_a_translated_belief_has_the_density_of_the_translated_target():
    mean, std, value = gaussian(5, 3)
    offset = torch.tensor([1.0, -2.0, 0.5])
    belief = DiagonalGaussian(mean, std)
    torch.testing.assert_close(belief.translate(offset).log_prob(value + offset), belief.log_prob(value))
    assert torch.equal(belief.translate(offset).stddev, std)


@pytest.mark.parametrize("bounds", [(-5.0, 1.5), (-2.0, -1.0)])
def test_the_heads_log_std_stays_within_its_bounds_and_reaches_towards_them(bounds):
    low, high = bounds
    head = DiagonalHead(1, 3, log_std_bounds=bounds)
    torch.nn.init.ones_(head.linear.weight)
    log_std = head(torch.tensor([[-1e4], [-60.0], [0.0], [60.0], [1e4]])).stddev.log()[:, 0]
    expected = torch.tensor([low, low, (low + high) / 2, high, high])
    assert (log_std >= low - 1e-5).all()
    assert (log_std <= high + 1e-5).all()
    torch.testing.assert_close(log_std, expected, rtol=0, atol=1e-3)


def test_a_head_refuses_bounds_that_leave_no_room():
    with pytest.raises(ValueError, match=r"log_std_bounds .*\(1\.0, 1\.0\)"):
        DiagonalHead(4, 2, log_std_bounds=(1.0, 1.0))


@pytest.mark.parametrize("dim", [1, 4096])
@pytest.mark.parametrize("target", [0.0, 1e6, -1e6])
def test_likelihood_and_its_gradient_stay_finite_for_wild_targets_and_sizes(dim, target):
    torch.manual_seed(0)
    head = make_head("diagonal", features=8, dim=dim)
    z = torch.full((4, dim), target, requires_grad=True)
    belief = head(100 * torch.randn(4, 8))
    loss = -belief.log_prob(z).mean() / dim
    loss.backward()
    assert torch.isfinite(loss)
    for gradient in (z.grad, head.linear.weight.grad, head.linear.bias.grad):
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(belief.coverage(z.detach())).all()


def test_beliefs_are_in_float32_whatever_the_networks_compute_in():
    head = make_head("diagonal", features=8, dim=4)
    with torch.autocast("cpu", torch.bfloat16):
        belief = head(torch.randn(2, 8))
    assert belief.mean.dtype == belief.stddev.dtype == torch.float32


def test_heads_keep_leading_dimensions():
    for name in ("diagonal", "point"):
        belief = make_head(name, features=8, dim=4)(torch.randn(5, 2, 8))
        assert belief.batch_shape == (5, 2)
        assert belief.event_shape == (4,)
        assert belief.rsample((3,)).shape == (3, 5, 2, 4)


def test_a_point_belief_is_all_at_its_mean_and_has_no_density():
    mean = torch.randn(5, 4)
    belief = Point(mean)
    assert torch.equal(belief.rsample((3,)), mean.expand(3, 5, 4))
    assert torch.equal(belief.variance, torch.zeros(5, 4))
    with pytest.raises(NotImplementedError, match="belief=diagonal"):
        belief.log_prob(mean)


def test_an_unknown_belief_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="ensemble; got 'cauchy'"):
        make_head("cauchy", features=8, dim=4)


@pytest.mark.parametrize(
    "name",
    ["diagonal", "low_rank", "full", "full_covariance", "spectral", "mixture", "student_t", "ensemble"],
)
def test_a_finite_resolution_leaves_the_spread_that_is_learnt_as_it_is(name):
    """Where targets have a standard deviation of 0.3, at a resolution as coarse."""
    torch.manual_seed(0)
    head = make_head(name, features=1, dim=2, log_std_bounds=(-5.0, 1.5))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    ones = torch.ones(512, 1)
    for update in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 3e-2 * (1 - update / 400)
        loss = -head(ones).learning_log_prob(1.0 + 0.3 * torch.randn(512, 2), resolution=0.3).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = head(ones[:1]).variance.sqrt()
    torch.testing.assert_close(found, torch.full_like(found, 0.3), rtol=0.1, atol=0)
