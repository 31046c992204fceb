"""Detection scores against their definitions; images that are unlike any data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import mannwhitneyu
from torch import Generator

from gje_world.beliefs import DiagonalGaussian
from gje_world.data.unlike import KINDS, unlike_images
from gje_world.evaluation import out_of_distribution as ood
from gje_world.evaluation.scores import surprise


def test_auroc_is_the_mann_whitney_statistic_whatever_the_scale_of_the_scores() -> None:
    generator = Generator().manual_seed(0)
    inside, outside = torch.randn(500, generator=generator), 0.7 + torch.randn(300, generator=generator)
    expected = mannwhitneyu(outside.numpy(), inside.numpy()).statistic / (500 * 300)
    for scale, offset in ((1, 0), (1000, 5e4), (1e-4, -3)):
        found = ood.detection(scale * inside + offset, scale * outside + offset)
        assert found["auroc"] == pytest.approx(expected, abs=2e-3)


def test_false_positives_at_95_percent_by_counting() -> None:
    inside, outside = torch.arange(100.0), torch.arange(90.0, 110.0)
    # 95 of inside lie at or below 94; of outside 90 ... 94, five of twenty
    assert ood.detection(inside, outside)["fpr95"] == pytest.approx(0.25)


def test_perfect_and_useless_scores() -> None:
    inside, outside = torch.zeros(40), torch.ones(10)
    assert ood.detection(inside, outside) == pytest.approx({"auroc": 1, "aupr": 1, "fpr95": 0})
    useless = ood.detection(inside, torch.zeros(10))
    assert useless == pytest.approx({"auroc": 0.5, "aupr": 0.2, "fpr95": 1})


def test_a_score_that_is_not_a_number_is_told() -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        ood.detection(torch.zeros(2), torch.tensor([torch.nan]))


def test_mahalanobis_is_scipys_to_the_nearest_class() -> None:
    generator = Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator)
    y = torch.arange(600) % 3
    z = torch.randn(600, 4, generator=generator) @ mix + 3 * y.unsqueeze(-1)
    score = ood.fit_mahalanobis(z, y, classes=4)  # of the fourth there is none
    means = np.stack([z[y == k].numpy().mean(0) for k in range(3)])
    tied = sum((y == k).float().mean().item() * np.cov(z[y == k].numpy().T, bias=True) for k in range(3))
    precision = np.linalg.inv(tied)
    points = 5 * torch.randn(20, 4, generator=generator)
    expected = [min(mahalanobis(p, m, precision) ** 2 for m in means) / 4 for p in points.numpy()]
    torch.testing.assert_close(score(points), torch.tensor(expected).float(), rtol=0.02, atol=0)


def test_the_marginal_score_is_the_normal_density_up_to_a_constant() -> None:
    z = torch.randn(2000, 5, generator=Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5]) + 1
    normal = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov(correction=0))
    points = 10 * torch.randn(50, 5, generator=Generator().manual_seed(1))
    expected = 2 / 5 * (normal.log_prob(z.mean(0)) - normal.log_prob(points))
    torch.testing.assert_close(ood.fit_marginal(z)(points), expected, rtol=0.01, atol=0)


def test_collapsed_embeddings_have_finite_scores() -> None:
    z, y = torch.ones(100, 3), torch.arange(100) % 2
    for score in (ood.fit_marginal(z), ood.fit_mahalanobis(z, y, 2), ood.fit_neighbours(z)):
        assert score(z).isfinite().all() and score(torch.zeros(2, 3)).isfinite().all()


def test_the_neighbour_score_is_the_distance_to_the_kth() -> None:
    z = torch.randn(200, 6, generator=Generator().manual_seed(0))
    unit = z / z.norm(dim=-1, keepdim=True)
    expected = torch.cdist(unit[:20], unit).sort().values[:, 9]
    torch.testing.assert_close(ood.fit_neighbours(z, 10)(z[:20]), expected, atol=1e-3, rtol=0)


def test_the_beliefs_own_scores_see_width_and_distance() -> None:
    mean = torch.zeros(3, 8)
    belief = DiagonalGaussian(mean, torch.tensor([[0.1], [1.0], [10.0]]).expand(3, 8))
    entropy = ood.entropy_score(belief)
    assert entropy[0] < entropy[1] < entropy[2]
    near, far = surprise(belief, mean), surprise(belief, mean + 3)
    assert (far > near).all()


@pytest.mark.parametrize("kind", KINDS)
def test_unlike_images_are_the_same_ones_each_time_and_differ_from_one_another(kind: str) -> None:
    images = unlike_images(kind, 12, image_size=32)
    assert images.shape == (12, 3, 32, 32) and images.dtype == torch.uint8
    assert torch.equal(images, unlike_images(kind, 12, image_size=32))
    assert not torch.equal(images, unlike_images(kind, 12, image_size=32, seed=1))
    assert len(images.flatten(1).unique(dim=0)) == 12
    stack = unlike_images(kind, 2, channels=9, image_size=16)
    assert torch.equal(stack[:, :3], stack[:, 6:])


def test_stacks_of_grey_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3, got 4"):
        unlike_images("noise", 1, channels=4)
