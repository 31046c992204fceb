"""Scores of beliefs several steps ahead, on worlds whose law is known."""

import math

import pytest
import torch

from gje_world.beliefs import CovarianceGaussian, DiagonalGaussian, Pool
from gje_world.evaluation.calibration import standard_error
from gje_world.evaluation.foresight import foresight, likelihood, marginal_gaussian, region_mass
from gje_world.evaluation.pictures import picture_scores
from gje_world.evaluation.retrieval import chance_reciprocal_rank, mean_reciprocal_rank, retrieval_ranks
from gje_world.evaluation.surprise import EVENTS, auroc, far_apart, surprise_auroc
from gje_world.propagation import propagate

N, D, S = 2000, 3, 30


def walk(width: float):
    """A random walk of unit steps, and beliefs about it that are `width` times too wide."""
    torch.manual_seed(0)
    start = 5 * torch.randn(N, D)
    target = start + torch.randn(4, N, D).cumsum(0)
    beliefs = [DiagonalGaussian(start, torch.full((N, D), width * (step + 1) ** 0.5)) for step in range(4)]
    futures = torch.stack([belief.sample((S,)) for belief in beliefs])
    return foresight(beliefs, futures, target, marginal_gaussian(start)), start


def test_the_true_law_is_calibrated_and_as_likely_as_its_entropy_says():
    found, _ = walk(1.0)
    entropy = [0.5 * (1 + torch.tensor(2 * torch.pi * (step + 1)).log()) for step in range(4)]
    torch.testing.assert_close(found.nll, torch.stack(entropy), atol=0.04, rtol=0)
    assert found.coverage_errors.max() < 0.03
    torch.testing.assert_close(found.sharpness, torch.arange(1.0, 5.0).sqrt())
    assert found.horizon == 4


class Walk:
    """A random walk that believes the truth about its next step, of unit variance."""

    def believe(self, z, action):
        return DiagonalGaussian(z, torch.ones_like(z))


def test_the_truth_told_by_few_particles_in_many_dimensions_is_nearly_as_likely_as_it_is():
    torch.manual_seed(0)
    count, dim, steps = 400, 10, 5
    start = torch.zeros(count, dim)
    target = torch.randn(steps, count, dim).cumsum(0)
    beliefs = propagate(Walk(), start, torch.zeros(steps, count, 0), particles=64)
    futures = torch.randn(S, steps, count, dim).cumsum(1).transpose(0, 1)
    found = foresight(beliefs, futures, target, marginal_gaussian(target))
    entropy = 0.5 * (1 + (2 * torch.pi * torch.arange(1.0, steps + 1)).log())
    torch.testing.assert_close(found.nll, entropy, atol=0.08, rtol=0)
    pooled = -beliefs[-1].log_prob(target[-1]).mean() / dim
    assert pooled > entropy[-1] + 0.3  # its own density, which lies where the particles do


def test_a_cloud_finds_its_own_future_by_its_mean_and_covariance():
    torch.manual_seed(0)
    start = 3 * torch.randn(100, 10)
    cloud = propagate(Walk(), start, torch.zeros(5, 100, 0), particles=64)[-1]
    target = start + 5**0.5 * torch.randn(100, 10)
    exact = DiagonalGaussian(start, torch.full((100, 10), 5**0.5))
    reciprocal = [
        mean_reciprocal_rank(retrieval_ranks(belief, target, torch.empty(0, 100, 10)))
        for belief in (exact, likelihood(cloud), cloud)
    ]
    assert reciprocal[1] > 0.9 * reciprocal[0] > reciprocal[2]


@pytest.mark.parametrize("width, direction", [(0.5, -1), (2.0, 1)])
def test_beliefs_too_narrow_or_too_wide_show_as_such(width, direction):
    found, _ = walk(width)
    true, _ = walk(1.0)
    assert (found.nll > true.nll).all() and (found.energy > true.energy).all()
    inside = (found.mass <= 0.5).float().mean(1)
    assert (direction * (inside - 0.5) > 0.1).all()


@pytest.mark.parametrize("width, direction", [(1.0, 0), (0.5, -1), (2.0, 1)])
def test_few_particles_in_many_dimensions_are_calibrated_if_their_law_is(width, direction):
    torch.manual_seed(0)
    count, dim, particles = 1000, 10, 8
    centres, target = torch.randn(particles, count, dim), torch.randn(count, dim)
    pool = Pool(DiagonalGaussian(width * centres, torch.tensor(0.2).expand_as(centres)))
    draws = width * torch.randn(40, count, dim) + 0.2 * torch.randn(40, count, dim)
    mass = region_mass(pool, draws, target, torch.Generator().manual_seed(0))
    inside = float((mass <= 0.5).float().mean())
    if direction:
        assert direction * (inside - 0.5) > 0.1
    else:
        assert abs(inside - 0.5) < 0.05
        assert float((pool.coverage(target) <= 0.5).float().mean()) < 0.1  # what its own draws would say


@pytest.mark.parametrize("count", [9, 64])
def test_regions_told_by_few_draws_hold_what_they_promise(count):
    torch.manual_seed(0)
    pool = Pool(DiagonalGaussian(torch.zeros(1, 100_000, 1), torch.ones(1, 100_000, 1)))
    draws, target = torch.randn(count, 100_000, 1), torch.randn(100_000, 1)
    mass = region_mass(pool, draws, target, torch.Generator().manual_seed(0))
    for level in (0.5, 0.9, 0.95):
        assert float((mass <= level).float().mean()) == pytest.approx(level, abs=0.005)


def test_a_belief_is_better_than_the_marginal_until_it_is_not():
    torch.manual_seed(0)
    z = torch.randn(N, D)
    sure = DiagonalGaussian(z, torch.full((N, D), 0.1))
    wrong = DiagonalGaussian(z + 1, torch.full((N, D), 0.1))
    beliefs = [sure, sure, wrong, sure]
    futures = torch.stack([belief.sample((4,)) for belief in beliefs])
    assert foresight(beliefs, futures, z.expand(4, N, D), marginal_gaussian(z)).horizon == 2


def test_the_marginal_is_the_gaussian_of_the_sample():
    torch.manual_seed(0)
    z = torch.randn(N, D) @ torch.randn(D, D) + 3
    found = marginal_gaussian(z)
    assert isinstance(found, CovarianceGaussian)
    torch.testing.assert_close(found.mean, z.mean(0))
    torch.testing.assert_close(found.covariance_matrix, z.T.cov(correction=0), atol=1e-3, rtol=1e-3)


def test_a_belief_that_knows_finds_its_own_future_and_one_that_does_not_finds_it_by_chance():
    torch.manual_seed(0)
    target, far = torch.randn(100, D), torch.full((1, 100, D), 9.0)
    knows = retrieval_ranks(DiagonalGaussian(target + 0.01, torch.full((100, D), 0.1)), target, far)
    assert (knows == 1).float().mean() > 0.9
    ignorant = retrieval_ranks(DiagonalGaussian(torch.zeros(100, D), torch.ones(100, D)), target, far)
    assert sorted(ignorant.tolist()) == list(range(1, 101))  # each has the same order of candidates
    own = target + torch.tensor([0.01, 9.0]).view(2, 1, 1)  # another moment of the clip is likelier by belief
    second = retrieval_ranks(DiagonalGaussian(target + 0.01, torch.full((100, D), 0.1)), target, own)
    assert torch.equal(second, knows + 1)
    torch.testing.assert_close(mean_reciprocal_rank(torch.tensor([1, 2, 4])), torch.tensor(1.75 / 3))


@pytest.mark.parametrize("make", [DiagonalGaussian, CovarianceGaussian])
def test_where_all_embeddings_are_alike_no_future_is_found(make):
    """Ties count half: every rank is in the middle, and its reciprocal below that of chance."""
    spread = torch.ones(100, D) if make is DiagonalGaussian else torch.eye(D).expand(100, D, D)
    ranks = retrieval_ranks(make(torch.zeros(100, D), spread), torch.zeros(100, D), torch.zeros(20, 100, D))
    assert ranks.tolist() == [60.5] * 100
    assert mean_reciprocal_rank(ranks) < chance_reciprocal_rank(120)
    lost = DiagonalGaussian(torch.full((3, D), torch.nan), torch.ones(3, D))
    assert retrieval_ranks(lost, torch.zeros(3, D), torch.zeros(1, 3, D)).tolist() == [4] * 3


def test_a_rank_by_chance_has_the_reciprocal_told():
    assert chance_reciprocal_rank(3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    torch.manual_seed(0)
    ignorant = DiagonalGaussian(torch.zeros(400, D), torch.ones(400, D))  # each has the same order
    ranks = retrieval_ranks(ignorant, torch.randn(400, D), torch.empty(0, 400, D))
    assert float(mean_reciprocal_rank(ranks)) == pytest.approx(chance_reciprocal_rank(400), rel=1e-5)


def test_auroc_counts_pairs_and_ties_as_half():
    negative, positive = torch.tensor([-1e6, 0.0, 3.0, 3.0]), torch.tensor([3.0, 1e6])
    pairs = positive[:, None] - negative
    expected = ((pairs > 0).float() + 0.5 * (pairs == 0).float()).mean()
    assert auroc(negative, positive) == pytest.approx(float(expected))


def test_a_score_that_is_no_number_finds_nothing():
    numbers, none = torch.arange(3.0), torch.full((3,), torch.nan)
    assert auroc(numbers, none) == 0 and auroc(none, numbers) == 0 and auroc(none, none) == 0


class Straight(torch.nn.Module):
    """A model of a dot that moves on by as much as before; its embedding is the dot's place."""

    frame_stack, dim = 1, 2

    def embed(self, frames):
        weight = frames.float().mean(-3)
        places = torch.arange(weight.shape[-1], dtype=torch.float32)
        mass = weight.sum((-2, -1)) + 1e-3
        return torch.stack([(weight.sum(axis) * places).sum(-1) / mass for axis in (-2, -1)], -1)

    def believe(self, z, actions):
        return DiagonalGaussian(2 * z[:, -1] - z[:, -2], torch.full_like(z[:, -1], 0.1))


def test_what_is_elsewhere_is_of_another_episode_and_of_a_lone_one_the_farthest():
    episode = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    found = far_apart(episode, torch.arange(7))
    assert found.tolist() == [3, 3, 3, 5, 5, 6, 3]
    rows = torch.tensor([50, 10, 12, 90])
    assert far_apart(torch.zeros(4), rows).tolist() == [1, 3, 3, 1]
    assert far_apart(torch.zeros(1), rows[:1]).tolist() == [0]


def test_a_model_that_knows_how_a_dot_moves_is_surprised_by_what_cannot_be():
    torch.manual_seed(0)
    frames = torch.zeros(40, 4, 3, 24, 24, dtype=torch.uint8)
    start = torch.randint(8, 14, (40, 2))
    speed = torch.tensor([(1, 2), (2, 1), (-1, 2), (2, -1)]).repeat(10, 1)
    for clip in range(40):
        for moment in range(4):
            row, column = (start[clip] + moment * speed[clip]).tolist()
            frames[clip, moment, :, row, column] = 255
    found = surprise_auroc(Straight(), frames, torch.zeros(40, 3, 0), torch.arange(40).roll(1))
    assert set(found) == {*EVENTS, "all"}
    assert min(found.values()) > 0.97


def test_the_best_of_several_pictures_is_no_worse_than_any_and_the_truth_itself_is_perfect():
    torch.manual_seed(0)
    truth = torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    noisy = (truth.float() + 20 * torch.randn(4, 2, 3, 3, 16, 16)).clamp(0, 255).to(torch.uint8)
    scores = picture_scores(noisy[0], noisy.transpose(0, 1), truth)
    for name in ("psnr", "ssim"):  # over the steps: at a single one the best sampled future may be worse
        assert scores[f"best_{name}"].mean() >= scores[name].mean()
    error = (noisy[0].float() - truth.float()).square().mean((2, 3, 4))
    expected = (10 * (255**2 / error).log10()).mean(1)
    torch.testing.assert_close(scores["psnr"], expected, atol=1e-3, rtol=1e-4)
    each = torch.stack([picture_scores(one, one.unsqueeze(1), truth)["psnr"] for one in noisy])
    torch.testing.assert_close(scores["sample_psnr"], each.mean(0))
    torch.testing.assert_close(picture_scores(truth, truth.unsqueeze(1), truth)["ssim"], torch.ones(2))


def test_a_lone_window_has_nowhere_to_be_teleported_to():
    frames = torch.randint(256, (1, 4, 3, 24, 24), dtype=torch.uint8)
    found = surprise_auroc(Straight(), frames, torch.zeros(1, 3, 0), torch.zeros(1, dtype=torch.long))
    assert math.isnan(found["teleport"]) and not math.isnan(found["all"])


def test_the_standard_error_of_a_mean_is_that_of_clusters():
    torch.manual_seed(0)
    value = torch.randn(500, 2)
    alone = standard_error(value, torch.arange(500))
    torch.testing.assert_close(alone, value.std(0) / 500**0.5)
    copies = standard_error(value.repeat(7, 1), torch.arange(500).repeat(7))  # which tell nothing new
    torch.testing.assert_close(copies, alone)
    assert standard_error(value, torch.zeros(500)).isnan().all()
