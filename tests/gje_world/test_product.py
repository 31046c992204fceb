"""Fusion of beliefs against dense formula and integration, and the identities of a product of experts."""

import itertools

import pytest
import torch

from gje_world.beliefs import (
    CovarianceGaussian,
    DiagonalGaussian,
    Ensemble,
    LowRankGaussian,
    Mixture,
    Pool,
    PrecisionGaussian,
    SpectralGaussian,
    StudentT,
    fuse,
)

B, D = 4, 5
KINDS = ("diagonal", "precision", "covariance", "low_rank", "spectral")


def belief(kind, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    mean, std = draw(B, D), 0.3 + draw(B, D).abs()
    triangle = draw(B, D, D).tril(-1) + 1.5 * torch.eye(D, dtype=torch.float64)
    return {
        "diagonal": lambda: DiagonalGaussian(mean, std),
        "precision": lambda: PrecisionGaussian(mean, triangle),
        "covariance": lambda: CovarianceGaussian(mean, triangle),
        "low_rank": lambda: LowRankGaussian(mean, std, draw(B, D, 2)),
        "spectral": lambda: SpectralGaussian(mean, std, torch.linalg.qr(draw(D, D))[0]),
    }[kind]()


@pytest.mark.parametrize("one, other", itertools.combinations_with_replacement(KINDS, 2))
def test_fusion_is_the_dense_product(one, other):
    a, b = belief(one, 1), belief(other, 2)
    fused = fuse(a, b)
    precisions = [torch.linalg.inv(each.covariance_matrix) for each in (a, b)]
    covariance = torch.linalg.inv(precisions[0] + precisions[1])
    mean = covariance @ (precisions[0] @ a.mean.unsqueeze(-1) + precisions[1] @ b.mean.unsqueeze(-1))
    torch.testing.assert_close(fused.mean, mean.squeeze(-1))
    torch.testing.assert_close(fused.covariance_matrix, covariance)


def test_the_densities_multiply_up_to_a_constant():
    a, b = belief("low_rank", 3), belief("diagonal", 4)
    value = torch.randn(20, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    excess = a.log_prob(value) + b.log_prob(value) - fuse(a, b).log_prob(value)
    torch.testing.assert_close(excess, excess[:1].expand(20, B))


def test_a_goal_without_doubt_is_where_the_world_will_be_and_one_without_weight_changes_nothing():
    world, goal = belief("diagonal", 6), belief("diagonal", 7).mean
    sure, vague = (DiagonalGaussian(goal, torch.full_like(goal, std)) for std in (1e-6, 1e6))
    torch.testing.assert_close(fuse(world, sure).mean, goal)
    torch.testing.assert_close(fuse(world, vague).mean, world.mean)
    torch.testing.assert_close(fuse(world, vague).stddev, world.stddev)


def mixture(kind, seed, components=3):
    """Three components `[B, K]`, told apart by their places."""
    each = [belief(kind, seed + place) for place in range(components)]
    weights = torch.randn(B, components, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    means = torch.stack([one.mean for one in each], 1)
    if kind == "diagonal":
        parts = DiagonalGaussian(means, torch.stack([one.std for one in each], 1))
    else:
        stds, factors = (torch.stack([getattr(one, name) for one in each], 1) for name in ("std", "factor"))
        parts = LowRankGaussian(means, stds, factors)
    return Mixture(weights.log_softmax(-1), parts)


def other(kind):
    if kind == "mixture":
        return mixture("low_rank", 30, components=2)
    if kind == "pool":
        drawn = mixture("diagonal", 40)
        spread = torch.randn(4, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        moved = DiagonalGaussian(
            drawn.means + spread.unsqueeze(2), drawn.components.std.expand(4, *drawn.means.shape)
        )
        return Pool(Mixture(drawn.log_weights.expand(4, -1, -1), moved))
    if kind.startswith("ensemble"):
        return Ensemble([belief(kind.removeprefix("ensemble of "), seed) for seed in (50, 60)])
    return belief(kind, 20)


@pytest.mark.parametrize("components", ["diagonal", "low_rank"])
@pytest.mark.parametrize(
    "second", [*KINDS, "mixture", "pool", "ensemble of diagonal", "ensemble of low_rank"]
)
def test_a_mixture_times_another_density_is_their_product_up_to_a_constant(components, second):
    a, b = mixture(components, 10), other(second)
    fused = fuse(a, b)
    value = torch.randn(20, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    excess = a.log_prob(value) + b.log_prob(value) - fused.log_prob(value)
    torch.testing.assert_close(excess, excess[:1].expand(20, B))
    torch.testing.assert_close(fused.log_weights.exp().sum(-1), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(fuse(b, a).mean, fused.mean)


def test_a_mixture_fused_with_a_goal_is_what_numerical_integration_says():
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    means, stds = torch.tensor([[[-1.0], [2.0]]]).double(), torch.tensor([[[0.5], [0.8]]]).double()
    a = Mixture(weights.log(), DiagonalGaussian(means, stds))
    b = DiagonalGaussian(torch.tensor([[1.5]]).double(), torch.tensor([[0.7]]).double())
    density = (a.log_prob(grid[:, None, None]) + b.log_prob(grid[:, None, None])).exp().squeeze(-1)
    density = density / torch.trapezoid(density, grid)
    mean = torch.trapezoid(density * grid, grid)
    fused = fuse(a, b)
    torch.testing.assert_close(fused.log_prob(grid[:, None, None]).exp().squeeze(-1), density)
    torch.testing.assert_close(fused.mean.squeeze(), mean)
    torch.testing.assert_close(
        fused.variance.squeeze(), torch.trapezoid(density * (grid - mean).square(), grid)
    )


def test_draws_of_a_fused_mixture_are_of_its_law():
    torch.manual_seed(0)
    fused = fuse(mixture("low_rank", 10), belief("diagonal", 20))  # of components with a full precision
    drawn = fused.sample((100_000,))
    deviation = ((drawn.mean(0) - fused.mean) / fused.stddev).abs().max()
    assert deviation < 0.02
    torch.testing.assert_close(drawn.std(0), fused.stddev, rtol=0.03, atol=0)


def test_what_does_not_fuse_is_named():
    a = belief("diagonal", 8)
    with pytest.raises(ValueError, match=r"only Gaussian beliefs and mixtures of them .*, got a StudentT"):
        fuse(a, StudentT(a.mean, a.std, torch.tensor(5.0).double()))
    with pytest.raises(ValueError, match="got dimensions 5 and 4"):
        fuse(a, DiagonalGaussian(a.mean[:, :4], a.std[:, :4]))
