"""The baselines' losses are those of a reference implementation; a collapse costs what it must."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from oracle import lightly_losses

from gje_world.methods import make_method
from gje_world.methods.barlow_twins import barlow_twins
from gje_world.methods.byol import negative_cosine
from gje_world.methods.dino import dino_loss
from gje_world.methods.mae import MAE
from gje_world.methods.masked_gje import ambiguity
from gje_world.methods.method import rising
from gje_world.methods.simclr import nt_xent
from gje_world.methods.vicreg import vicreg_terms
from gje_world.networks import make_encoder


@pytest.fixture(scope="module")
def losses():
    return lightly_losses()


def pair(batch: int = 12, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(batch, dim, generator=generator)
    return a, 0.7 * a + 0.5 * torch.randn(batch, dim, generator=generator)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr(losses, temperature):
    a, b = pair()
    same(nt_xent(a, b, temperature), losses.NTXentLoss(temperature)(a, b))


def test_byol_and_simsiam(losses):
    a, b = pair()
    same(negative_cosine(a, b), losses.NegativeCosineSimilarity()(a, b))


def heads(name: str):
    """A method in training mode, and its encoder's embeddings of two unlike views."""
    torch.manual_seed(0)
    options = {"dim": 8} if name == "simsiam" else {"dim": 8, "projector_hidden": 16}
    method = make_method(name, make_encoder("conv", 3, 16, 16, width=4), 10, **options)
    views = 255 * torch.rand(2, 12, 3, 16, 16)
    return method, views, method.encoder(views.flatten(0, 1))


def test_byol_predicts_the_other_view_of_its_moving_average():
    """Batch statistics run over both views together."""
    method, views, z = heads("byol")
    method.after_update(0)
    predicted = F.normalize(method.predict(method.projector(z)), dim=-1)
    target = method.target_projector(method.target_encoder(views.flatten(0, 1)))
    target = F.normalize(target, dim=-1).detach()
    (q_a, q_b), (v_a, v_b) = predicted.split(12), target.split(12)
    expected = (q_a - v_b).square().sum(-1) + (q_b - v_a).square().sum(-1)  # Grill et al., 2020, eq. 2
    same(method([views])[0], expected.mean())


def test_simsiam_predicts_the_other_view_through_which_no_gradient_flows():
    method, views, z = heads("simsiam")
    v = method.projector(z)
    (q_a, q_b), (v_a, v_b) = method.predict(v).split(12), v.detach().split(12)
    sides = [F.cosine_similarity(q, target, dim=-1).mean() for q, target in ((q_a, v_b), (q_b, v_a))]
    expected = -0.5 * sides[0] - 0.5 * sides[1]  # Chen and He, 2021, eq. 4
    weights = [*method.parameters()]
    gradient = torch.autograd.grad(expected, weights, allow_unused=True)
    loss = method([views])[0]
    same(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, weights), gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_gje_believes_in_the_other_view():
    torch.manual_seed(0)
    encoder = make_encoder("conv", 3, 16, 16, width=4)
    method = make_method("gje", encoder, 10, dim=8, projector_hidden=16, hidden=16)
    views = 255 * torch.rand(2, 12, 3, 16, 16)
    v = method.beliefs.project(method.encode(views))
    a, b = (method.beliefs.believe(side) for side in v)
    predicted = method.objective.predict(a, v[1]).mean() / 2 + method.objective.predict(b, v[0]).mean() / 2
    same(method([views])[1]["loss/prediction"], predicted.detach())


@pytest.mark.parametrize("progress, momentum", [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_momentum_rises_along_half_a_cosine(progress, momentum):
    assert rising(0.9, progress) == pytest.approx(momentum)


def test_vicreg(losses):
    a, b = pair()
    invariance, variance, covariance = vicreg_terms(a, b)
    same(25 * invariance + 25 * variance + covariance, losses.VICRegLoss()(a, b))


def test_barlow_twins(losses):
    a, b = pair()
    same(barlow_twins(a, b, 5e-3), losses.BarlowTwinsLoss()(a, b))


def test_dino(losses):
    torch.manual_seed(0)
    student, teacher, centre = torch.randn(5, 7, 16), torch.randn(2, 7, 16), torch.randn(16)
    theirs = losses.DINOLoss(output_dim=16, teacher_temp=0.04, student_temp=0.1)
    theirs.center.copy_(centre.view(1, 1, -1))
    same(
        dino_loss(student, teacher, centre, 0.1, 0.04),
        theirs(list(teacher.unbind()), list(student.unbind()), teacher_temp=0.04),
    )


def rows(x: torch.Tensor) -> list[list[float]]:
    return x.double().tolist()


def cosine(u: list[float], v: list[float]) -> float:
    return sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


def covariance(x: torch.Tensor) -> list[list[float]]:
    return torch.cov(x.double().mT).tolist()


def off_diagonal(matrix: list[list[float]]) -> float:
    return sum(value**2 for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j)


def test_simclr_is_the_formula():
    a, b = pair()
    all_views, count = rows(torch.cat([a, b])), len(a)
    total = 0.0
    for i, view in enumerate(all_views):
        kernels = [math.exp(cosine(view, other) / 0.5) for other in all_views]
        total -= math.log(kernels[(i + count) % (2 * count)] / (sum(kernels) - kernels[i]))
    assert nt_xent(a, b, 0.5).item() == pytest.approx(total / (2 * count), rel=1e-5)


def test_negative_cosine_is_the_formula():
    a, b = pair()
    mean = sum(cosine(u, v) for u, v in zip(rows(a), rows(b), strict=True)) / len(a)
    assert negative_cosine(a, b).item() == pytest.approx(-mean, rel=1e-5)


def test_vicreg_is_the_formula():
    a, b = pair()
    dim = a.shape[1]
    distance = (a.double() - b.double()).square().mean().item()
    spreads = [
        max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) for cov in map(covariance, (a, b)) for j in range(dim)
    ]
    across = sum(off_diagonal(covariance(x)) for x in (a, b)) / dim
    found = [term.item() for term in vicreg_terms(a, b)]
    assert found == pytest.approx([distance, sum(spreads) / (2 * dim), across], rel=1e-5)


def test_barlow_twins_is_the_formula():
    a, b = (x.double() for x in pair())
    standard = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in (a, b)]
    matrix = (standard[0].mT @ standard[1] / len(a)).tolist()
    expected = sum((1 - matrix[j][j]) ** 2 for j in range(len(matrix))) + 5e-3 * off_diagonal(matrix)
    assert barlow_twins(*pair(), 5e-3).item() == pytest.approx(expected, rel=1e-5)


def test_dino_is_the_formula():
    torch.manual_seed(0)
    student, teacher, centre = torch.randn(5, 7, 16), torch.randn(2, 7, 16), torch.randn(16)
    terms = []
    for t in range(2):
        for s in range(5):
            if s != t:
                target = ((teacher[t].double() - centre.double()) / 0.04).softmax(-1)
                guess = (student[s].double() / 0.1).softmax(-1)
                terms.append(-(target * guess.log()).sum(-1).mean().item())
    found = dino_loss(student, teacher, centre, 0.1, 0.04).item()
    assert found == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_mae_is_the_formula_in_float64():
    torch.manual_seed(0)
    method = MAE(make_encoder("vit_tiny", 3, None, 32, depth=1), updates=1)
    views = torch.randint(256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    loss, _ = method([views])
    torch.manual_seed(1)
    order = torch.rand(4, 64).argsort(1)
    images = method.encoder.pixels(views[0])
    told = method.tell_pixels(
        method.decode(method.encoder.tokens(images, order[:, :16]), order[:, :16], order[:, 16:])
    )
    total = 0.0
    for image, places, guess in zip(images.double(), order[:, 16:].tolist(), told.double(), strict=True):
        for place, one in zip(places, guess, strict=True):
            row, column = divmod(place, 8)
            patch = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            total += F.mse_loss(one, patch).item()
    assert loss.item() == pytest.approx(total / (4 * 48), rel=1e-5)


def test_what_is_ambiguous_weighs_more():
    from gje_world.beliefs import DiagonalGaussian

    std = torch.tensor([0.1, 1.0, 2.0]).view(1, 3, 1).expand(1, 3, 5)
    weights = ambiguity(DiagonalGaussian(torch.zeros(1, 3, 5), std))
    # softmax of the log deviations: in proportion to the deviations
    same(weights, 3 * torch.tensor([[0.1, 1.0, 2.0]]) / 3.1)
