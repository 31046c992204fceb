"""Linear probe and k-NN: what theory says of them, on data whose best classifier is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Generator, Tensor

from gje_world.evaluation.classification import _regress, accuracy, fit_linear_probe, nearest_neighbours
from gje_world.evaluation.embedding import embed_images


def _blobs(
    count: int, seed: int, classes: int = 4, dim: int = 8, apart: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Gaussian classes of unit variance, whose best classifier is linear."""
    centres = apart * torch.randn(classes, dim, generator=Generator().manual_seed(0))
    generator = Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    return centres[y] + torch.randn(count, dim, generator=generator), y


def _bayes_accuracy(z: Tensor, y: Tensor, classes: int = 4, apart: float = 1.5) -> float:
    centres = apart * torch.randn(classes, z.shape[1], generator=Generator().manual_seed(0))
    return accuracy(-torch.cdist(z, centres), y)


def test_the_probe_comes_near_the_best_classifier() -> None:
    z, y = _blobs(4000, 1)
    z_test, y_test = _blobs(4000, 2)
    found = accuracy(fit_linear_probe(z, y, 4).logits(z_test), y_test)
    assert found == pytest.approx(_bayes_accuracy(z_test, y_test), abs=0.01)


def test_the_probe_is_the_minimum_that_scipy_finds() -> None:
    z, y = _blobs(300, 1, dim=3)
    probe = fit_linear_probe(z, y, 4, penalties=(0.01,), iterations=500)
    x = ((z - probe.mean) / probe.std).double()

    def loss(flat):
        weight, bias = torch.from_numpy(flat[:12]).view(3, 4), torch.from_numpy(flat[12:])
        return float(F.cross_entropy(x @ weight + bias, y) + 0.005 * weight.square().sum())

    best = minimize(loss, torch.zeros(16).double().numpy(), method="BFGS")
    torch.testing.assert_close(
        probe.weight.double().flatten(), torch.from_numpy(best.x[:12]), atol=2e-3, rtol=0
    )


def test_the_probe_does_not_see_the_scale_or_offset_of_a_dimension() -> None:
    z, y = _blobs(500, 1)
    scale = torch.logspace(-3, 3, z.shape[1])
    plain = fit_linear_probe(z, y, 4).logits(z)
    moved = fit_linear_probe(z * scale + 5 * scale, y, 4).logits(z * scale + 5 * scale)
    torch.testing.assert_close(plain, moved, atol=0.02, rtol=0.02)


def test_a_dead_dimension_changes_nothing() -> None:
    z, y = _blobs(500, 1)
    dead = torch.cat([z, torch.full((500, 1), 3.0)], 1)
    torch.testing.assert_close(
        fit_linear_probe(z, y, 4).logits(z), fit_linear_probe(dead, y, 4).logits(dead), atol=0.02, rtol=0.02
    )


def test_a_stronger_penalty_is_chosen_where_little_is_known() -> None:
    few, many = _blobs(30, 1, dim=64), _blobs(4000, 1, dim=64)
    assert fit_linear_probe(*few, 4).penalty > fit_linear_probe(*many, 4).penalty


def test_the_penalty_is_where_held_out_points_are_likeliest() -> None:
    """No penalty on a grid five times as fine as decades does better, and the best is between two decades."""
    z, y = _blobs(400, 1, dim=64, apart=0.3)
    order = torch.randperm(len(z), generator=Generator().manual_seed(0))
    held_out, kept = order[:40], order[40:]
    x = (z - z.mean(0)) / z.std(0)

    def nll(penalty: float) -> float:
        weight, bias = _regress(x[kept], y[kept], None, torch.zeros(64, 4), torch.zeros(4), penalty, 100)
        return float(F.cross_entropy(x[held_out] @ weight + bias, y[held_out]))

    chosen = fit_linear_probe(z, y, 4).penalty
    assert nll(chosen) < min(nll(10 ** (power / 10)) for power in range(-20, 1, 2)) + 1e-3
    assert nll(chosen) < min(nll(10**power) for power in range(-4, 2)) - 1e-3


def test_one_point_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 points, got 1"):
        fit_linear_probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 2)


def test_neighbours_vote_by_their_cosine() -> None:
    z_train = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    y_train = torch.tensor([0, 1, 1])
    probabilities = nearest_neighbours(z_train, y_train, torch.tensor([[3.0, 3.0]]), 2, neighbours=2)
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.5]]))
    near = nearest_neighbours(z_train, y_train, torch.tensor([[1.0, 0.0]]), 2, temperature=1.0)
    weights = torch.tensor([1.0, 0.0, -1.0]).exp()
    torch.testing.assert_close(near[0, 0], weights[0] / weights.sum())


def test_neighbours_come_near_the_best_classifier() -> None:
    z, y = _blobs(4000, 1, apart=3)
    z_test, y_test = _blobs(2100, 2, apart=3)
    found = accuracy(nearest_neighbours(z, y, z_test, 4), y_test)
    assert found == pytest.approx(_bayes_accuracy(z_test, y_test, apart=3), abs=0.03)


def test_images_are_embedded_in_their_order() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    counts: list[int] = []
    z = embed_images(lambda x: x.float().mean((2, 3)), images, batch_size=4, advance=counts.append)
    torch.testing.assert_close(z, torch.arange(10.0).view(10, 1).expand(10, 3))
    assert counts == [4, 4, 2]
