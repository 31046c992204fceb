"""Fusion of beliefs against the dense formula, and the identities that a product of experts has."""

import itertools

import pytest
import torch

from gje_world.beliefs import (
    CovarianceGaussian,
    DiagonalGaussian,
    LowRankGaussian,
    Mixture,
    PrecisionGaussian,
    SpectralGaussian,
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


def test_what_does_not_fuse_is_named():
    a = belief("diagonal", 8)
    mixture = Mixture(torch.zeros(B, 1), DiagonalGaussian(a.mean.unsqueeze(1), a.std.unsqueeze(1)))
    with pytest.raises(ValueError, match="only Gaussian beliefs fuse in closed form, got a Mixture"):
        fuse(a, mixture)
    with pytest.raises(ValueError, match="got dimensions 5 and 4"):
        fuse(a, DiagonalGaussian(a.mean[:, :4], a.std[:, :4]))
