"""Every belief against an oracle in float64, and what all of them have in common."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as td

from gje_world.beliefs import (
    HEADS,
    UNIT_LOG_STD_BOUNDS,
    Belief,
    CovarianceGaussian,
    DiagonalGaussian,
    Ensemble,
    LowRankGaussian,
    Mixture,
    Polar,
    PowerSpherical,
    PrecisionGaussian,
    SpectralGaussian,
    StudentT,
    make_head,
    unit_scale_options,
)

DENSE = [name for name in HEADS if name != "point"]
GAUSSIAN = ["diagonal", "low_rank", "full", "full_covariance", "spectral"]
IN_SPACE = [name for name in DENSE if name != "power_spherical"]
ESTIMATED = {"mixture", "flow", "ensemble"}  # entropy and regions by Monte Carlo
RANKED = ESTIMATED | {"polar"}  # regions by the rank among a few draws
B, D = 7, 6


def tril(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lower = (
        torch.randn(*shape, shape[-1], generator=generator, dtype=torch.float64).tril(-1) / shape[-1] ** 0.5
    )
    return lower + torch.diag_embed(0.3 + torch.rand(*shape, generator=generator, dtype=torch.float64))


def double(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(*shape, seed=0):
    return 0.2 + 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(dim):
    return torch.linalg.qr(double(dim, dim, seed=3))[0]


def sphere(*shape, seed=0):
    return torch.nn.functional.normalize(double(*shape, seed=seed), dim=-1)


def gaussians(dim):
    """Name, our belief, and torch's with the same parameters, all in float64."""
    mean, std, factor, lower = double(B, dim), positive(B, dim), double(B, dim, 3, seed=1), tril(B, dim)
    basis = orthogonal(dim)
    covariance = torch.linalg.inv(lower @ lower.mT)
    low_rank = (std.unsqueeze(-1) * factor, std.square())
    return {
        "diagonal": (DiagonalGaussian(mean, std), td.MultivariateNormal(mean, scale_tril=std.diag_embed())),
        "low_rank": (LowRankGaussian(mean, std, factor), td.LowRankMultivariateNormal(mean, *low_rank)),
        "full": (PrecisionGaussian(mean, lower), td.MultivariateNormal(mean, covariance)),
        "full_covariance": (CovarianceGaussian(mean, lower), td.MultivariateNormal(mean, scale_tril=lower)),
        "spectral": (
            SpectralGaussian(mean, std, basis),
            td.MultivariateNormal(mean, basis @ std.square().diag_embed() @ basis.mT),
        ),
    }


def in_float32(belief):
    """The same belief with its parameters in float32."""
    parts = [value.float() for value in vars(belief).values() if isinstance(value, torch.Tensor)]
    return type(belief)(*parts)


@pytest.mark.parametrize("dim", [1, D, 96])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussians_agree_with_torch_in_float64(name, dim):
    ours, oracle = gaussians(dim)[name]
    value = oracle.sample((5,)) + double(5, B, dim, seed=9)
    torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.entropy(), oracle.entropy(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.mean, oracle.mean)
    torch.testing.assert_close(ours.variance, oracle.variance, rtol=1e-9, atol=1e-9)
    covariance = getattr(oracle, "covariance_matrix")  # noqa: B009
    torch.testing.assert_close(ours.covariance_matrix, covariance, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        ours.precision_trace,
        torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1).sum(-1),
        rtol=1e-7,
        atol=0,
    )


@pytest.mark.parametrize("dim", [1, D, 96])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_log_densities_are_right_to_1e_5_in_float32(name, dim):
    ours, oracle = gaussians(dim)[name]
    single = in_float32(ours)
    value = oracle.sample((50,))
    found, right = single.log_prob(value.float()).double(), oracle.log_prob(value)
    assert single.log_prob(value.float()).dtype == torch.float32
    # relative to the size of the terms that a log-density is the sum of
    size = right.abs() + 0.5 * dim * math.log(2 * math.pi)
    assert ((found - right).abs() / size).max() < 1e-5


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_samples_have_the_moments_of_the_belief(name):
    ours, oracle = gaussians(D)[name]
    count = 200_000
    torch.manual_seed(0)
    sample = ours.rsample((count,))
    mean, covariance = (
        sample.mean(0),
        torch.einsum("nbi,nbj->bij", sample - ours.mean, sample - ours.mean) / count,
    )
    scale = oracle.variance.sqrt()
    assert ((mean - ours.mean) / scale).abs().max() < 6 / count**0.5
    outer = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    assert ((covariance - ours.covariance_matrix) / outer).abs().max() < 9 / count**0.5


@pytest.mark.parametrize("name", GAUSSIAN)
def test_a_blurred_gaussian_is_the_gaussian_plus_noise(name):
    ours, _ = gaussians(D)[name]
    tau, value = 0.35, double(B, D, seed=5)
    blurred = td.MultivariateNormal(
        ours.mean, ours.covariance_matrix + tau**2 * torch.eye(D, dtype=torch.float64)
    )
    # the expectation over the noise, by an exact quadrature for quadratics: plus and minus along each axis
    steps = tau * D**0.5 * torch.cat([torch.eye(D, dtype=torch.float64), -torch.eye(D, dtype=torch.float64)])
    expected = torch.stack([blurred.log_prob(value + step) for step in steps]).mean(0)
    torch.testing.assert_close(ours.learning_log_prob(value, tau), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours.learning_log_prob(value), ours.log_prob(value))


def test_the_low_rank_gradient_in_closed_form_is_that_of_the_density():
    mean, std, factor, value = double(3, 4), positive(3, 4), double(3, 4, 2, seed=1), double(3, 4, seed=2)
    parts = [part.requires_grad_() for part in (mean, std, factor, value)]
    assert torch.autograd.gradcheck(lambda m, s, f, v: LowRankGaussian(m, s, f).log_prob(v), parts)
    several = value.expand(5, 3, 4)  # more values than beliefs take the other way to the same number
    belief = LowRankGaussian(mean, std, factor)
    torch.testing.assert_close(belief.log_prob(several)[0], belief.log_prob(value))


@pytest.mark.parametrize("rank", [0, 2])
def test_mixtures_agree_with_torch(rank):
    k = 4
    mean, std, factor = double(B, k, D), positive(B, k, D), double(B, k, D, 2, seed=1)
    logits = double(B, k, seed=2)
    components = LowRankGaussian(mean, std, factor) if rank else DiagonalGaussian(mean, std)
    dense = td.MultivariateNormal(mean, components.covariance_matrix)
    oracle = td.MixtureSameFamily(td.Categorical(logits=logits), dense)
    ours = Mixture(logits.log_softmax(-1), components)
    value = oracle.sample((20,))
    torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value))
    torch.testing.assert_close(ours.mean, oracle.mean)
    torch.testing.assert_close(ours.variance, oracle.variance)
    torch.manual_seed(0)
    sample = ours.rsample((100_000,))
    assert ((sample.mean(0) - oracle.mean) / oracle.stddev).abs().max() < 0.02
    centred = sample - oracle.mean
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / len(sample)
    torch.testing.assert_close(covariance, ours.covariance_matrix, rtol=0.05, atol=0.1)


def test_mixture_samples_come_from_each_component_as_often_as_its_weight():
    weights = torch.tensor([0.05, 0.25, 0.7])
    means = torch.tensor([[-10.0], [0.0], [10.0]])
    belief = Mixture(weights.log(), DiagonalGaussian(means, torch.full((3, 1), 0.1)))
    torch.manual_seed(0)
    nearest = (belief.rsample((50_000,)) / 10).round().long().squeeze(-1) + 1
    assert (torch.bincount(nearest, minlength=3) / 50_000 - weights).abs().max() < 0.01


@pytest.mark.parametrize("dim, df", [(1, 3.0), (1, 100.0), (6, 2.1), (64, 5.0)])
def test_student_t_agrees_with_scipy(dim, df):
    mean, scale, value = double(dim), positive(dim), double(50, dim, seed=4) * 3
    ours = StudentT(mean, scale, torch.tensor(df, dtype=torch.float64))
    oracle = scipy.stats.multivariate_t(mean.numpy(), scale.square().diag().numpy(), df)
    right = torch.as_tensor(oracle.logpdf(value.numpy())).reshape(50)
    torch.testing.assert_close(ours.log_prob(value), right, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.entropy(), torch.tensor(oracle.entropy(), dtype=torch.float64))
    single = in_float32(ours).log_prob(value.float()).double()
    assert ((single - right).abs() / (right.abs() + dim)).max() < 1e-5


@pytest.mark.parametrize("dim", [2, 3, 16])
@pytest.mark.parametrize("concentration", [0.01, 3.0, 500.0])
def test_the_power_spherical_density_integrates_to_one(dim, concentration):
    direction = sphere(dim)
    ours = PowerSpherical(direction, torch.tensor(concentration, dtype=torch.float64))
    # along the axis: density times the area of the circle of latitude
    cosine = torch.cos(torch.linspace(0, math.pi, 200_001, dtype=torch.float64))
    across = torch.zeros(dim, dtype=torch.float64)
    across[0] = 1.0
    across = torch.nn.functional.normalize(across - (across @ direction) * direction, dim=-1)
    points = cosine[:, None] * direction + (1 - cosine.square()).clamp(min=0).sqrt()[:, None] * across
    area = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2)
    ring = area * (1 - cosine.square()).clamp(min=0) ** ((dim - 2) / 2)
    density = (ours.log_prob(points).exp() * ring)[1:-1]
    angle = math.pi / 200_000
    assert abs(float(density.sum() * angle) - 1) < 1e-4 + 2 * angle * float(density.max())
    expected = (density * -ours.log_prob(points)[1:-1]).sum() * angle
    torch.testing.assert_close(ours.entropy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("concentration", [0.5, 50.0])
def test_power_spherical_samples_have_its_moments_and_unit_length(concentration):
    direction = sphere(3, D)
    ours = PowerSpherical(direction, torch.full((3,), concentration, dtype=torch.float64))
    torch.manual_seed(0)
    sample = ours.rsample((200_000,))
    torch.testing.assert_close(sample.norm(dim=-1), torch.ones(200_000, 3, dtype=torch.float64))
    assert (sample.mean(0) - ours.mean).abs().max() < 0.01
    centred = sample - sample.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / len(sample)
    torch.testing.assert_close(covariance, ours.covariance_matrix, rtol=0.05, atol=3e-3)


def test_the_polar_density_integrates_to_one_and_has_its_moments():
    direction = PowerSpherical(sphere(2), torch.tensor(4.0, dtype=torch.float64))
    one = torch.ones((), dtype=torch.float64)
    ours = Polar(direction, 0.2 * one, 0.3 * one)
    axis = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cell, density = 0.005**2, ours.log_prob(grid).exp()
    assert abs(float(density.sum() * cell) - 1) < 1e-3
    torch.testing.assert_close((density[:, None] * grid).sum(0) * cell, ours.mean, rtol=1e-3, atol=1e-3)
    square = (density[:, None] * grid.square()).sum(0) * cell
    torch.testing.assert_close(square - ours.mean.square(), ours.variance, rtol=2e-3, atol=1e-3)
    surprise = (-ours.log_prob(grid) * density).nan_to_num(0.0)
    torch.testing.assert_close(surprise.sum() * cell, ours.entropy(), rtol=1e-3, atol=1e-3)


def test_an_ensemble_is_the_equal_mixture_of_its_members():
    mean, std = double(3, B, D), positive(3, B, D)
    ours = Ensemble([DiagonalGaussian(m, s) for m, s in zip(mean, std, strict=True)])
    oracle = td.MixtureSameFamily(
        td.Categorical(logits=torch.zeros(B, 3, dtype=torch.float64)),
        td.Independent(td.Normal(mean.movedim(0, 1), std.movedim(0, 1)), 1),
    )
    value = oracle.sample((20,))
    torch.testing.assert_close(ours.log_prob(value), oracle.log_prob(value))
    torch.testing.assert_close(ours.mean, oracle.mean)
    torch.testing.assert_close(ours.variance, oracle.variance)
    torch.testing.assert_close(ours.aleatoric + ours.epistemic, ours.variance)
    torch.testing.assert_close(ours.covariance_matrix.diagonal(dim1=-2, dim2=-1), ours.variance)
    alike = Ensemble([DiagonalGaussian(mean[0], std[0])] * 3)
    assert torch.equal(alike.epistemic, torch.zeros(B, D, dtype=torch.float64))


@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_of_a_flow_integrates_to_one_and_is_that_of_its_samples(dim):
    torch.manual_seed(3)
    head = make_head("flow", features=4, dim=dim, log_std_bounds=(-1.0, 1.0))
    for parameter in head.flow.parameters():  # bent, but not so that a grid would miss its peaks
        torch.nn.init.normal_(parameter, std=0.15)
    with torch.no_grad():
        belief = head(torch.randn(4))
        axis = torch.linspace(-8, 8, 501 if dim == 2 else 4001)
        grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
        density = belief.log_prob(grid).exp() * float(axis[1] - axis[0]) ** dim
        assert float(density.double().sum()) == pytest.approx(1, abs=2e-3)
        sample = belief.sample((20_000,))
        for d in range(dim):
            share = density.double().unflatten(0, (len(axis),) * dim)
            below = (share.sum(1 - d) if dim == 2 else share).cumsum(0)
            found = torch.searchsorted(sample[:, d].sort().values.contiguous(), axis) / len(sample)
            assert float((found - below).abs().max()) < 0.02


def test_moments_of_a_polar_belief_keep_their_digits_where_it_is_sure():
    direction = sphere(B, 8)
    told = [torch.full((B,), x, dtype=torch.float64) for x in (math.exp(10), 0.3, math.exp(-5))]
    exact = Polar(PowerSpherical(direction, told[0]), *told[1:])
    ours = Polar(PowerSpherical(direction.float(), told[0].float()), *(x.float() for x in told[1:]))
    for name in ("mean", "variance", "covariance_matrix"):
        right = getattr(exact, name)
        assert float((getattr(ours, name) - right).abs().max() / right.abs().max()) < 1e-5


# ---- what all beliefs have in common ----


def believe(name, dim=D, batch=(B,), spread=1.0, **options):
    torch.manual_seed(1)
    head = make_head(name, features=16, dim=dim, **options)
    return head, head(spread * torch.randn(*batch, 16))


@pytest.mark.parametrize("name", DENSE)
def test_regions_of_a_belief_hold_what_they_claim_of_its_own_samples(name):
    _, belief = believe(name)
    with torch.no_grad():
        mass = belief.coverage(belief.sample((4000,)))
    assert mass.shape == (4000, B)
    for level in (0.5, 0.9, 0.95):
        # beliefs that rank among few samples share their luck within a row
        assert abs(float((mass <= level).float().mean()) - level) < (0.04 if name in RANKED else 0.01)


@pytest.mark.parametrize("name", DENSE)
def test_entropy_is_the_mean_surprise_of_the_beliefs_own_samples(name):
    _, belief = believe(name)
    with torch.no_grad():
        count = 4_000 if name == "flow" else 40_000
        surprise = -belief.log_prob(belief.sample((count,)))
        bound = 8 * surprise.std(0) * (1 / count**0.5 + (name in ESTIMATED) / 199**0.5)
        assert ((belief.entropy() - surprise.mean(0)).abs() < bound + 1e-3).all()


@pytest.mark.parametrize("name", DENSE)
def test_moments_are_those_of_the_beliefs_own_samples(name):
    _, belief = believe(name)
    with torch.no_grad():
        sample = belief.sample((4_000 if name == "flow" else 40_000,))
        error = (sample.mean(0) - belief.mean).abs() / sample.std(0)
        assert error.max() < (1.0 if name == "flow" else 0.04)
        assert (sample.std(0) / belief.stddev - 1).abs().max() < (0.7 if name == "flow" else 0.15)


@pytest.mark.parametrize("name", IN_SPACE)
@settings(max_examples=10, deadline=None)
@given(offset=st.floats(-100, 100))
def test_a_translated_belief_has_the_density_of_the_translated_target(name, offset):
    _, belief = believe(name)
    with torch.no_grad():
        value = belief.sample()
        moved = belief.translate(torch.full((D,), offset))
        assert moved.batch_shape == belief.batch_shape
        torch.testing.assert_close(
            moved.log_prob(value + offset), belief.log_prob(value), rtol=1e-3, atol=5e-2
        )
        if name != "flow":
            torch.testing.assert_close(moved.mean, belief.mean + offset)
            torch.testing.assert_close(moved.variance, belief.variance)


@pytest.mark.parametrize("name", DENSE)
def test_all_parameters_of_a_head_learn_from_the_likelihood(name):
    head, belief = believe(name)
    value = belief.sample()
    (-belief.learning_log_prob(value)).mean().backward()
    without = [
        label
        for label, p in head.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not without


@pytest.mark.parametrize("name", DENSE)
def test_samples_carry_gradients(name):
    head, belief = believe(name)
    belief.rsample((3,)).square().sum().backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in head.parameters())


@pytest.mark.parametrize("name", ["full", "full_covariance"])
def test_a_new_dense_belief_is_no_wider_in_many_dimensions(name):
    torch.manual_seed(0)
    head = make_head(name, 16, 512, log_std_bounds=(-5.0, 1.5))
    with torch.no_grad():
        belief = head(3 * torch.randn(2, 16))
        assert 0.05 < float(belief.stddev.min()) <= float(belief.stddev.max()) < 1
        assert abs(float(belief.log_prob(torch.zeros(2, 512)).mean()) / 512) < 1


@pytest.mark.parametrize("dim, rank", [(512, 8), (2048, 8), (4096, 16)])
def test_loadings_however_large_and_aligned_leave_a_density(dim, rank):
    head = make_head("low_rank", 4, dim, rank=rank)
    torch.nn.init.constant_(head.linear.bias[2 * dim :], 1e3)
    belief = head(torch.zeros(2, 4))
    assert belief.log_prob(torch.randn(2, dim)).isfinite().all()
    assert belief.entropy().isfinite().all()


def test_a_precise_belief_is_blurred_at_any_scale():
    generator = torch.Generator().manual_seed(0)
    spread = (20 * torch.rand(500, 16, generator=generator) - 10).exp()
    lower = torch.eye(16) + torch.randn(500, 16, 16, generator=generator).tril(-1) / 4
    belief = PrecisionGaussian(torch.zeros(500, 16), lower / spread.unsqueeze(-1))
    assert belief.learning_log_prob(torch.zeros(500, 16), 0.35).isfinite().all()


@pytest.mark.parametrize("name", ["full", "full_covariance"])
def test_samples_of_a_dense_belief_share_its_triangle(name):
    """Each sample is what it is alone, in whatever batch."""
    _, belief = believe(name, batch=(2, 3))
    with torch.no_grad():
        noise = torch.randn(4, 5, 2, 3, D)
        drawn, error = belief.colour(noise), belief.whiten(noise)
        for index in ((0, 0), (3, 4)):
            torch.testing.assert_close(drawn[index], belief.colour(noise[index]))
            torch.testing.assert_close(error[index], belief.whiten(noise[index]))
        torch.testing.assert_close(belief.whiten(drawn).square().sum(-1), noise.square().sum(-1))


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("dim", [1, 4096])
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_extreme_sizes_and_targets_give_finite_values_and_gradients_or_a_clear_error(name, dim, far):
    if dim == 1 and name in ("polar", "power_spherical"):
        with pytest.raises(
            ValueError, match=f"belief={name} needs an embedding dimension of at least 2, got 1"
        ):
            make_head(name, 4, dim)
        return
    if dim == 4096 and name in ("full", "full_covariance", "spectral"):
        with pytest.raises(ValueError, match=r"at most 1024, got 4096; .*low_rank"):
            make_head(name, 4, dim)
        return
    torch.manual_seed(0)
    options = {"flow": {"hidden": 2, "transforms": 1}, "ensemble": {"members": 2}}.get(name, {})
    head = make_head(name, 4, dim, **options)
    belief = head(torch.randn(3, 4))
    value = torch.full((3, dim), far) if name != "power_spherical" else sphere(3, dim).float()
    value.requires_grad_()  # an encoder learns through it
    density = belief.log_prob(value)
    (-density.mean() / dim).backward()
    assert density.isfinite().all()
    assert all(p.grad.norm().isfinite() for p in (value, *head.parameters()))
    assert belief.rsample().isfinite().all()


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outside_leaves_the_likelihood_in_float32(name, dtype):
    head, plain = believe(name)
    value = plain.sample().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(2)
        belief = head(torch.randn(B, 16))
        inside = belief.log_prob(value)
    assert inside.dtype == belief.mean.dtype == torch.float32
    torch.testing.assert_close(inside, belief.log_prob(value.float()), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", DENSE)
def test_equal_inputs_and_targets_give_finite_gradients(name):
    head, _ = believe(name)
    belief = head(torch.zeros(B, 16))
    target = torch.nn.functional.normalize(torch.ones(B, D), dim=-1)
    (-belief.learning_log_prob(target, 0.35 if name in GAUSSIAN else 0.0)).mean().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_no_square_matrix_is_made_by_a_low_rank_belief(monkeypatch):
    shapes = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            shapes.extend(
                tuple(r.shape)
                for r in (result if isinstance(result, tuple) else (result,))
                if hasattr(r, "shape")
            )
            return result

    with Watched():
        _, belief = believe("low_rank", dim=300, rank=4)
        (belief.log_prob(belief.rsample()).sum() + belief.entropy().sum()).backward()
        belief.coverage(belief.mean)
    assert shapes and not [shape for shape in shapes if shape[-2:] == (300, 300)]


def test_beliefs_refuse_options_that_they_do_not_have():
    with pytest.raises(ValueError, match="belief=diagonal has no option rank; it takes log_std_bounds"):
        make_head("diagonal", 4, 4, rank=2)
    with pytest.raises(ValueError, match=r"belief must be one of .*; got 'cauchy'"):
        make_head("ensemble", 4, 4, member="cauchy")
    for name in ("low_rank", "mixture"):
        for rank in (-1, 5):
            with pytest.raises(ValueError, match=f"rank={rank} must be from . to the 4 dimensions"):
                make_head(name, 4, 4, rank=rank)
    assert make_head("low_rank", 4, 4).rank == 4  # of eight, where there is room
    for options in (
        {"name": "mixture", "components": 0},
        {"name": "ensemble", "members": 1},
    ):
        with pytest.raises(ValueError, match="must be at least"):
            make_head(features=4, dim=4, **options)
    with pytest.raises(ValueError, match="df must be above 2"):
        make_head("student_t", 4, 4, df=1.0)


def test_an_ensemble_hands_what_it_does_not_take_to_its_members():
    head = make_head("ensemble", 4, 5, member="mixture", members=3, components=2)
    belief = head(torch.randn(2, 4))
    assert len(belief.members) == 3
    assert belief.members[0].means.shape == (2, 2, 5)


@pytest.mark.parametrize("name", HEADS)
def test_beliefs_go_by_the_names_of_their_heads(name):
    belief = make_head(name, features=4, dim=D)(torch.randn(B, 4))
    assert belief.name == name and repr(belief).endswith(f"(batch_shape=({B},), dim={D})")
    if name != "power_spherical":
        assert belief.translate(torch.zeros(B, D)).name == name


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_finds_modes_in_many_dimensions_before_its_means_meet(seed):
    torch.manual_seed(seed)
    plane, turns = torch.linalg.qr(torch.randn(32, 32)).Q[:2], torch.arange(4) * math.pi / 2
    modes = torch.stack([turns.cos(), turns.sin()], 1) @ plane
    head = make_head("mixture", features=1, dim=32, components=8)
    optimizer, features = torch.optim.Adam(head.parameters(), lr=5e-3), torch.ones(256, 1)
    for _ in range(300):
        value = modes[torch.randint(4, (256,))] + 0.05 * torch.randn(256, 32)
        optimizer.zero_grad()
        (-head(features).log_prob(value).mean() / 32).backward()
        optimizer.step()
    with torch.no_grad():
        drawn = head(features[:1]).sample((2000,))[:, 0]
    shares = (torch.cdist(drawn, modes) < 0.5).float().mean(0)
    assert shares.min() > 0.15


def of_all_pairs(belief, value, resolution=0.0, of=None):
    """Log-densities of all pairs, by the belief's own way or the one that all beliefs have."""
    torch.manual_seed(1)  # of the noise
    return (of or type(belief)).pairwise_log_prob(belief, value, resolution=resolution)


@pytest.mark.parametrize("resolution", [0.0, 0.3])
@pytest.mark.parametrize("name, options", [*((name, {}) for name in IN_SPACE), ("mixture", {"rank": 3})])
def test_densities_of_all_pairs_are_those_of_each_value_under_each_belief(name, options, resolution):
    torch.manual_seed(0)
    head, features = make_head(name, 12, D, **options), torch.randn(B, 12)
    offset = 20 + torch.randn(B, D)  # far from 0, where products lose their digits
    value = offset[:4] + 0.5
    results = []
    for of in (None, Belief):
        found = of_all_pairs(head(features).translate(offset), value, resolution, of)
        assert found.shape == (4, B)
        gradients = torch.autograd.grad(found.square().mean(), list(head.parameters()), allow_unused=True)
        results.append([found, *(g for g in gradients if g is not None)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", IN_SPACE)
def test_densities_of_all_pairs_keep_batches_apart_and_their_precision_in_autocast(name):
    torch.manual_seed(0)
    head, features, value = make_head(name, 12, D), torch.randn(3, B, 12), torch.randn(3, 4, D)
    belief = head(features)
    found = of_all_pairs(belief, value)
    for one in range(3):
        alone = of_all_pairs(head(features[one]), value[one])
        torch.testing.assert_close(found[one], alone, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(of_all_pairs(belief, value), found, rtol=1e-4, atol=1e-4)


def test_densities_of_all_pairs_of_beliefs_that_share_what_spreads_them():
    mean, value, std = torch.randn(6, D), torch.randn(4, D), torch.rand(D) + 0.5
    weights = torch.tensor([0.2, 0.8]).log()
    for belief in (
        DiagonalGaussian(mean, std),
        LowRankGaussian(mean, std, torch.randn(D, 2)),
        PrecisionGaussian(mean, torch.eye(D)),
        StudentT(mean, std, torch.tensor(5.0)),
        Mixture(weights, DiagonalGaussian(torch.randn(6, 2, D), std)),
    ):
        torch.testing.assert_close(of_all_pairs(belief, value), of_all_pairs(belief, value, of=Belief))
    assert belief.covariance_matrix.shape == (6, D, D)


def test_the_covariance_of_a_mixture_keeps_its_precision_in_autocast():
    torch.manual_seed(0)
    mixture = make_head("mixture", 12, D)(torch.randn(B, 12)).translate(torch.randn(B, D))
    expected = mixture.covariance_matrix
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mixture.covariance_matrix, expected)


def test_the_covariance_of_a_mixture_has_a_gradient_where_a_component_has_no_weight():
    logits = torch.tensor([0.0, -200.0], requires_grad=True)
    mixture = Mixture(logits.log_softmax(-1), DiagonalGaussian(torch.randn(2, D), torch.ones(2, D)))
    mixture.covariance_matrix.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_densities_of_all_pairs_where_loadings_are_as_large_as_a_head_allows():
    torch.manual_seed(0)
    dim, many = 128, 16
    mean, direction = 20 + torch.randn(many, dim), torch.ones(many, dim, 2)
    belief = LowRankGaussian(mean, torch.full_like(mean, math.exp(-2)), 8 * direction)
    value = belief.sample()[:8]
    found, expected = (of_all_pairs(belief, value, 0.35, of) / dim for of in (None, Belief))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_student_t_tells_spreads_that_are_not_linear_in_its_features():
    torch.manual_seed(0)
    head = make_head("student_t", 2, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 300)

    def draw(count):
        features = torch.randint(0, 2, (count, 2)) * 2.0 - 1
        alike = features.prod(-1, keepdim=True) > 0  # which no linear map of the features tells
        return features, alike.squeeze(-1), torch.randn(count, 8) * torch.where(alike, 0.05, 0.5)

    for _ in range(300):
        features, _, value = draw(256)
        loss = -head(features).log_prob(value).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    features, alike, value = draw(4096)
    inside = (head(features).coverage(value) <= 0.5).float()
    assert abs(inside[alike].mean() - 0.5) < 0.06 and abs(inside[~alike].mean() - 0.5) < 0.06


def test_bounds_for_unit_scale_are_for_spreads_in_units_of_the_embedding_and_give_way():
    assert unit_scale_options("diagonal") == {"log_std_bounds": UNIT_LOG_STD_BOUNDS}
    assert unit_scale_options("low_rank", rank=2, log_std_bounds=(-1, 1)) == {
        "rank": 2,
        "log_std_bounds": (-1, 1),
    }
    assert unit_scale_options("polar") == {}  # whose spread is relative to the radius
    assert unit_scale_options("ensemble", member="polar") == {"member": "polar"}
