"""The multiple-futures benchmark: the truth scores perfectly, and each score finds what it is for."""

import numpy as np
import pytest
import torch
from torch import Generator

from gje_world.data.worlds import WORLDS, make_world
from gje_world.evaluation.futures import CONTEXT, HORIZON, Functions, ask, score, score_draws, score_oracle
from gje_world.evaluation.futures_baselines import NearestNeighbours
from gje_world.evaluation.futures_scores import (
    central_coverage_error,
    mode_radius,
    nll_gap,
    rank_pit,
    total_variation,
)
from gje_world.evaluation.reading import fit_reading

FEW = 256  # contexts: enough for what is asserted here


@pytest.fixture(scope="module")
def junction():
    world = make_world("junction_2", 32)
    return world, ask(world, contexts=FEW)


@pytest.mark.parametrize("name", WORLDS)
def test_the_true_law_scores_perfectly(name):
    world = make_world(name, 32)
    row = score_oracle(world, ask(world, contexts=FEW)).row
    assert row["energy_ratio_1"] == pytest.approx(1, abs=0.05)
    assert row[f"energy_ratio_{HORIZON}"] == pytest.approx(1, abs=0.05)
    assert max(row[f"coverage_error_{level}_{HORIZON}"] for level in (50, 90, 95)) < 0.08
    if row["entropy"] is None:
        assert row["recall"] is None
        return
    assert row["recall"] == 1 and row["precision"] > 0.99
    assert row["total_variation"] < 0.05 and row["nll_gap"] < 0.01
    ways = torch.tensor(world.probabilities)
    assert row["entropy"] == pytest.approx(float(-(ways * ways.log()).sum()), abs=1e-5)


def drawing(world, question, change, seed=0):
    """A predictor in the world's variables: draws from the truth, changed."""
    generator = np.random.default_rng(seed)

    def draw(part, count):
        drawn = world.sample_futures(question.states[part], HORIZON, count, generator)
        return change(torch.from_numpy(world.readable(drawn)), part)

    return draw


def test_the_mean_of_all_futures_finds_no_way_and_costs_up_to_twice_the_truth(junction):
    world, question = junction
    draw = drawing(world, question, lambda drawn, _: drawn.mean(0, keepdim=True).expand_as(drawn))
    row = score_draws(question, draw, question.values, 0.0).row
    assert row["recall"] == 0 and row["precision"] == 0 and row["total_variation"] == 1
    assert 1.8 < row[f"energy_ratio_{HORIZON}"] < 2.02
    assert row[f"coverage_error_90_{HORIZON}"] > 0.85


@pytest.mark.parametrize("bias", [0.1, 0.2])
def test_the_total_variation_of_a_biased_sampler_is_its_bias(junction, bias):
    world, question = junction
    generator = Generator().manual_seed(0)

    def change(drawn, part):
        ways = question.places[:, part].movedim(2, 0)  # [K, H, b, V]
        second = torch.rand(drawn.shape[0], 1, drawn.shape[2], 1, generator=generator) < 0.5 + bias
        return torch.where(second, ways[1], ways[0])

    row = score_draws(question, drawing(world, question, change), question.values, 0.0).row
    assert row["total_variation"] == pytest.approx(bias, abs=0.01)
    assert row["recall"] == 1 and row["precision"] == 1
    skew = torch.tensor([0.5 - bias, 0.5 + bias])
    assert row["nll_gap"] == pytest.approx(float((0.5 * (0.5 / skew).log()).sum()), abs=0.01)


def test_one_way_alone_is_half_the_recall(junction):
    world, question = junction
    draw = drawing(world, question, lambda drawn, part: question.places[:, part, 0].expand_as(drawn))
    row = score_draws(question, draw, question.values, 0.0).row
    assert row["recall"] == 0.5 and row["precision"] == 1
    assert row["total_variation"] == pytest.approx(0.5)


def test_a_probe_that_cannot_tell_the_ways_apart_does_not_win_recall(junction):
    world, question = junction
    between = question.places.mean(2)
    draw = drawing(world, question, lambda drawn, part: between[:, part].expand_as(drawn))
    assert score_draws(question, draw, question.values, probe_rmse=100.0).row["recall"] == 0
    radius = mode_radius(question.truth[:, -1], question.places[-1], 100.0)
    apart = (question.places[-1, :, 0] - question.places[-1, :, 1]).norm(dim=-1)
    torch.testing.assert_close(radius, 0.49 * apart)


def test_a_predictor_of_two_functions_is_scored_through_its_own_embedding(junction, monkeypatch):
    """One that knows the law, and tells it in a twisted embedding of five numbers."""
    monkeypatch.setattr("gje_world.evaluation.futures.PROBE_EPISODES", 300)
    monkeypatch.setattr("gje_world.evaluation.reading.UPDATES", 300)
    world, question = junction
    mixing = torch.randn(2, 5, generator=Generator().manual_seed(0))

    def told(places):
        return torch.tanh(places @ mixing) + 0.5 * (places @ mixing)

    def place(frames):  # the bright pixels' centre of mass, without the mark in the middle
        pixels = (frames[:, :, 0].float() - 26).clamp(min=0)
        pixels[..., 15:17, 15:17] = 0
        grid = (torch.arange(32) + 0.5) / 16 - 1
        total = pixels.sum((-2, -1)).clamp(min=1)
        return torch.stack([(pixels.sum(-2) @ grid) / total, (pixels.sum(-1) @ grid) / total], -1)

    def sample(context, horizon, count):
        where = [int((question.context == one).flatten(1).all(1).nonzero()[0]) for one in context]
        drawn = world.sample_futures(question.states[where], horizon, count, np.random.default_rng(0))
        return told(torch.from_numpy(world.readable(drawn)))

    scores = score(world, Functions(lambda frames: told(place(frames)), sample), question)
    assert 0 < scores.row["probe_rmse"] < 0.1
    assert scores.row["recall"] == 1 and scores.row["precision"] > 0.95
    assert scores.row["total_variation"] < 0.04


def test_neighbours_answer_with_futures_that_followed(junction):
    world, question = junction
    bank = ask(world, seed=1, contexts=400).frames
    neighbours = NearestNeighbours(bank, HORIZON)
    drawn = neighbours.sample(question.context[:8], HORIZON, 50)
    assert drawn.shape == (50, HORIZON, 8, neighbours.embed(bank[:1]).shape[-1])
    own = neighbours.embed(bank)[:, CONTEXT:]  # [N, H, D]
    distance = torch.cdist(drawn[:, :, 0].flatten(1), own.flatten(1)).min(-1).values
    assert float(distance.max()) < 0.01


def test_the_total_variation_and_the_gap_of_what_fell_on_no_mode():
    nothing, even = torch.zeros(1, 2), torch.tensor([0.5, 0.5])
    assert float(total_variation(nothing, even)) == 1
    assert float(nll_gap(nothing, even, 1000)) == pytest.approx(np.log(0.5 / (0.5 / 1001)))
    assert float(nll_gap(even[None], even, 1000)) == pytest.approx(0, abs=1e-6)


def test_ranks_are_uniform_where_values_are_drawn_like_the_samples_ties_and_all():
    generator = Generator().manual_seed(0)
    coarse = torch.randn(101, 4000, generator=generator).round()
    pit = rank_pit(coarse[:100], coarse[100], generator)
    counts = torch.histc(pit, 10, 0, 1)
    assert float((counts / 400 - 1).abs().max()) < 0.2
    assert float(central_coverage_error(pit, (0.5, 0.9)).max()) < 0.02
    narrow = rank_pit(0.5 * coarse[:100], coarse[100], generator)
    assert float(central_coverage_error(narrow, (0.5,))) > 0.1


def test_the_probe_reads_what_is_folded_and_leaves_the_random_state_alone(monkeypatch):
    monkeypatch.setattr("gje_world.evaluation.reading.UPDATES", 500)
    generator = Generator().manual_seed(0)
    y = torch.rand(4000, 2, generator=generator) * 2 - 1
    z = torch.cat([(3 * y).sin(), (3 * y).cos(), y.prod(-1, keepdim=True)], -1)
    before = torch.get_rng_state()
    reading = fit_reading(z[:3000], y[:3000], z[3000:], y[3000:])
    assert reading.rmse < 0.06
    assert torch.equal(before, torch.get_rng_state())
    blind = fit_reading(z[:3000, 4:], y[:3000], z[3000:, 4:], y[3000:])
    assert blind.rmse > 0.5
