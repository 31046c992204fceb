"""The models that the benchmark learns: what recipes can be, what beliefs can hold, what weights stay."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, nn

from gje_world.beliefs import DiagonalGaussian, LowRankGaussian, make_head
from gje_world.calibration import NOTHING
from gje_world.data.worlds import make_world
from gje_world.evaluation.probe import linear_probe_r2
from gje_world.video.benchmark import PREDICTORS, UNLEARNT
from gje_world.video.futures_models import (
    BELIEFS,
    ENCODERS,
    LENGTH,
    Recipe,
    around,
    averaged_weights,
    descend,
    episodes,
    learn,
    learn_beliefs,
    learn_encoder,
)

TINY = Recipe(dim=4, width=4, hidden=16, layers=1, encoder_updates=1, updates=3, batch=8)


@pytest.fixture
def frames(monkeypatch):
    monkeypatch.setattr("gje_world.video.futures_models.PART", 40)
    return episodes(make_world("bounce", 32), 1, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder": "veiws"}, "encoder must be one of views, dynamics, reconstruct, random; got 'veiws'"),
        (
            {"belief": "diagonal_mixture"},
            "belief must be one of mixture, low_rank_mixture, .*; got 'diagonal_m",
        ),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"frame_stack": 2}, "history=5 with frame_stack=2 needs more frames than the 5 of a context"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_the_benchmark_learns_every_belief_that_recipes_name():
    assert set(PREDICTORS) - set(UNLEARNT) == set(BELIEFS)


def test_every_way_of_learning_moves_the_encoder_and_no_two_to_the_same(frames):
    learnt = [learn_encoder(frames, replace(TINY, encoder=name), seed=1) for name in ENCODERS]
    with torch.no_grad():
        z = torch.stack([encoder(frames[:2, 0]) for encoder in learnt])
    assert (torch.cdist(z.flatten(1), z.flatten(1)) + torch.eye(len(z)) > 0).all()


def test_an_encoder_that_draws_its_frames_learns_where_the_sprite_is(monkeypatch):
    monkeypatch.setattr("gje_world.video.futures_models.PART", 100)
    monkeypatch.setattr("gje_world.video.futures_models.OBSERVED", 64)
    world = make_world("bounce", 32)
    frames = episodes(world, 1, 0)
    place = (frames[:, :, 0].float() - 26).clamp(min=0)
    grid = (torch.arange(32) + 0.5) / 16 - 1
    y = (
        torch.stack([place.sum(-2) @ grid, place.sum(-1) @ grid], -1) / place.sum((-2, -1))[..., None]
    ).flatten(0, 1)
    read = {}
    for name in ("random", "reconstruct"):
        recipe = replace(TINY, dim=8, width=8, encoder=name, encoder_updates=60, encoder_lr=3e-3)
        encoder = learn_encoder(frames, recipe, seed=1)
        with torch.no_grad():
            z = encoder(frames.flatten(0, 1))
        read[name] = linear_probe_r2(z[::2], y[::2], z[1::2], y[1::2]).mean()
    assert read["reconstruct"] > read["random"] + 0.1


def test_components_of_low_rank_hold_noise_that_is_a_sheet_in_the_embedding_and_a_box_does_not():
    """Two numbers seen through sixteen: what reads them back averages a diagonal component's noise away."""
    seen = torch.linalg.qr(torch.randn(16, 16, generator=Generator().manual_seed(0)))[0][:, :2] * 4
    covariance = seen @ seen.T
    box = DiagonalGaussian(torch.zeros(16), covariance.diagonal().sqrt())  # the best there is, by its moments
    sheet = LowRankGaussian(torch.zeros(16), torch.full((16,), 0.02), seen / 0.02)
    back = torch.linalg.pinv(seen)  # [2, 16]
    ratios = [float((back @ b.covariance_matrix @ back.T).diagonal().mean()) for b in (box, sheet)]
    assert ratios[0] < 0.3  # of the true variance, 1
    assert ratios[1] == pytest.approx(1, abs=0.01)
    torch.manual_seed(0)
    for name, kind in (("mixture", DiagonalGaussian), ("low_rank_mixture", LowRankGaussian)):
        options = dict(BELIEFS[name])
        head = make_head(options.pop("name"), 4, 16, **options)
        assert isinstance(head(torch.zeros(4)).components, kind)


def test_the_weights_that_stay_are_the_moving_average_of_those_on_the_way():
    torch.manual_seed(0)
    learnt, way = nn.Linear(3, 1), []
    average = averaged_weights(learnt, 40)  # keeps half at each update
    descend(
        learnt, lambda _: learnt(torch.randn(8, 3)).square().mean(), 40, 0.1,
        lambda: way.append(learnt.weight.detach().clone()), average,
    )  # fmt: skip
    expected = way[0]
    for weight in way[1:]:
        expected = 0.5 * expected + 0.5 * weight
    torch.testing.assert_close(learnt.weight.detach(), expected)
    assert not torch.equal(learnt.weight, way[-1])


def test_the_weights_of_hardly_any_updates_are_the_last(frames):
    learnt = nn.Linear(1, 1)
    average = averaged_weights(learnt, 3)
    for value in (1.0, 2.0, 5.0):
        nn.init.constant_(learnt.weight, value)
        average.update_parameters(learnt)
    assert average.module.weight.item() == 5


@pytest.mark.parametrize("belief", BELIEFS)
def test_every_belief_is_learnt(belief, frames):
    recipe = replace(TINY, belief=belief)
    model = around(learn_encoder(frames, TINY, seed=1), frames, recipe, seed=1)
    before = [parameter.clone() for parameter in model.predictor.parameters()]
    learn_beliefs(model, model.embed(frames), recipe, 1, lambda: None)
    after = list(model.predictor.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_stack_of_frames_is_learnt_from_and_calibrated(monkeypatch):
    monkeypatch.setattr("gje_world.video.futures_models.PART", 40)
    recipe = replace(TINY, encoder="dynamics", frame_stack=2, history=4, episodes=40)
    model = learn(make_world("bounce", 32), recipe, seed=1)
    assert model.calibration.told != NOTHING
    assert model.embed(episodes(make_world("bounce", 32), 1, 0)[:3]).shape == (3, LENGTH - 1, 4)
