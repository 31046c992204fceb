"""The multiple-futures benchmark: the truth scores perfectly, and each score finds what it is for."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Generator

from gje_world.data.worlds import WORLDS, make_world
from gje_world.evaluation.futures import (
    CONTEXT,
    HORIZON,
    ask,
    read_truth,
    score,
    score_draws,
    score_oracle,
)
from gje_world.evaluation.futures_baselines import NearestNeighbours
from gje_world.evaluation.futures_scores import (
    central_coverage,
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
    for step in (1, HORIZON):  # by definition
        assert row[f"energy_ratio_{step}"] == pytest.approx(1, abs=1e-6)
        assert row[f"energy_ratio_true_{step}"] == pytest.approx(1, abs=1e-6)
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


def misread(values, error):
    """What a smooth probe that errs by so much makes of places `[..., 2]`: nearly the same nearby."""
    return values + error * torch.stack([(5 * values[..., 0]).sin(), (5 * values[..., 1] + 2).cos()], -1)


@pytest.mark.parametrize("name, punished", [("junction_1", 1.3), ("junction_3", 1.03)])
def test_the_true_law_read_by_a_probe_that_errs_is_as_good_as_the_oracle_read_by_the_same(name, punished):
    world, error = make_world(name, 32), 0.03
    question = ask(world, contexts=FEW)
    oracle, happened = misread(question.truth[:, :, :128], error), misread(question.values, error)

    def scored(change):
        draw = drawing(world, question, lambda drawn, _: misread(change(drawn), error))
        return score_draws(question, draw, happened, error, oracle).row

    row = scored(lambda drawn: drawn)
    assert row["energy_ratio_true_1"] > punished  # its probe's fault, not its own
    for step in (1, HORIZON):
        assert row[f"energy_ratio_{step}"] == pytest.approx(1, abs=0.03)
    wide = scored(lambda drawn: drawn.mean(0) + 3 * (drawn - drawn.mean(0)))
    assert wide[f"energy_ratio_{HORIZON}"] > 1.1  # and what is its own fault still shows


@pytest.mark.parametrize("error", [0.0, 0.03, 0.1])
def test_the_best_point_costs_at_most_twice_the_oracle_however_coarse_the_probe(junction, error):
    world, question = junction
    best = question.truth.mean(0, keepdim=True)
    draw = drawing(world, question, lambda drawn, part: best[:, :, part].expand_as(drawn))
    oracle = misread(question.truth[:, :, :128], error)
    row = score_draws(question, draw, misread(question.values, error), error, oracle).row
    assert 1.4 < row[f"energy_ratio_{HORIZON}"] < 2.02
    assert row[f"energy_ratio_{HORIZON}"] < 1.02 * row[f"energy_ratio_true_{HORIZON}"]


def test_true_draws_are_read_from_their_frames_after_their_context():
    world = make_world("bounce", 32)
    question = ask(world, contexts=4)

    def embed(frames):  # the bright pixels' centre of mass, and what it was a frame before
        pixels = (frames[:, :, 0].float() - 26).clamp(min=0)
        grid = (torch.arange(32) + 0.5) / 16 - 1
        total = pixels.sum((-2, -1))
        place = torch.stack([(pixels.sum(-2) @ grid) / total, (pixels.sum(-1) @ grid) / total], -1)
        return torch.cat([place[:, 1:], place[:, :-1]], -1)

    class Newest:
        def __call__(self, z):
            return z[..., :2]

    class Before:
        def __call__(self, z):
            return z[..., 2:]

    predictor = SimpleNamespace(embed=embed)
    read = read_truth(world, predictor, question, Newest())
    assert read.shape == question.truth.shape
    assert (read - question.truth).abs().mean() < 0.05
    before = read_truth(world, predictor, question, Before())
    torch.testing.assert_close(before[:, 1:], read[:, :-1])
    assert torch.equal(before[0, 0], before[1, 0])  # the context's last frame, whatever is drawn


def test_the_error_of_a_coverage_is_that_of_a_mean_over_contexts():
    pit = torch.rand(400, 1, generator=Generator().manual_seed(0))
    share, error = central_coverage(pit, 0.9)
    assert float(error) == pytest.approx(float((share * (1 - share) / 399) ** 0.5), rel=1e-4)
    again, same = central_coverage(pit.expand(400, 3), 0.9)  # variables that go together tell nothing new
    assert (again, same) == (share, error)
    estimates = [central_coverage(torch.rand(400, 2), 0.9) for _ in range(300)]
    spread = torch.stack([share for share, _ in estimates]).std()
    told = torch.stack([error for _, error in estimates]).mean()
    assert float(told / spread) == pytest.approx(1, abs=0.15)


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

    few = replace(question, true_states=question.true_states[:, :, :8])
    scores = score(world, SimpleNamespace(embed=lambda frames: told(place(frames)), sample=sample), few)
    assert 0 < scores.row["probe_rmse"] < 0.1
    assert scores.row["recall"] == 1 and scores.row["precision"] > 0.95
    assert scores.row["total_variation"] < 0.04
    assert scores.row["probe_r2"] > 0.9


@pytest.mark.parametrize(
    "embed, sample, words",
    [
        (lambda frames: torch.zeros(len(frames), 1, 4), None, r"T' from 5 to T, of .* it gave \[2, 1, 4\]"),
        (lambda frames: torch.zeros(len(frames), 4), None, r"embed must give .* it gave \[2, 4\]"),
        (
            lambda frames: torch.zeros(*frames.shape[:2], 4),
            lambda context, horizon, count: torch.zeros(horizon, count, len(context), 4),
            r"sample must give \[count, horizon, B, D\], here \[3, 5, 2, 4\]; it gave \[5, 3, 2, 4\]",
        ),
        (lambda frames: np.zeros((len(frames), 5, 4)), None, "embed must give a torch tensor; .* ndarray"),
        (lambda frames: torch.full((len(frames), 5, 4), torch.nan), None, "embed must give finite numbers"),
    ],
)
def test_a_predictor_of_other_shapes_is_refused_before_any_probe_is_fitted(junction, embed, sample, words):
    world, question = junction
    sample = sample or (lambda context, horizon, count: torch.zeros(count, horizon, len(context), 4))
    with pytest.raises(ValueError, match=words):
        score(world, SimpleNamespace(embed=embed, sample=sample), question)


def test_neighbours_answer_with_futures_that_followed(junction):
    world, question = junction
    bank = ask(world, seed=1, contexts=400).frames
    neighbours = NearestNeighbours(bank, HORIZON)
    drawn = neighbours.sample(question.context[:8], HORIZON, 50)
    assert drawn.shape == (50, HORIZON, 8, neighbours.embed(bank[:1]).shape[-1])
    own = neighbours.embed(bank)[:, CONTEXT:]  # [N, H, D]
    distance = torch.cdist(drawn[:, :, 0].flatten(1), own.flatten(1)).min(-1).values
    assert float(distance.max()) < 0.01
    nearest = NearestNeighbours(bank, HORIZON, neighbours=1).sample(bank[:8, :CONTEXT], HORIZON, 1)
    torch.testing.assert_close(nearest[0].movedim(1, 0), own[:8])  # of a context it knows, what followed


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
    for level in (0.5, 0.9):
        assert float(central_coverage(pit[:, None], level)[0]) == pytest.approx(level, abs=0.02)
    narrow = rank_pit(0.5 * coarse[:100], coarse[100], generator)
    assert float(central_coverage(narrow[:, None], 0.5)[0]) < 0.4


def test_the_probe_reads_what_is_folded_and_leaves_the_random_state_alone(monkeypatch):
    monkeypatch.setattr("gje_world.evaluation.reading.UPDATES", 500)
    generator = Generator().manual_seed(0)
    y = torch.rand(4000, 2, generator=generator) * 2 - 1
    z = torch.cat([(3 * y).sin(), (3 * y).cos(), y.prod(-1, keepdim=True)], -1)
    before = torch.get_rng_state()
    reading = fit_reading(z[:3000], y[:3000], z[3000:], y[3000:])
    assert reading.rmse < 0.06
    error = (reading(z[3000:]) - y[3000:]).square().mean()
    assert reading.r2 == pytest.approx(1 - float(error / y[3000:].var(0, correction=0).mean()), abs=1e-5)
    assert torch.equal(before, torch.get_rng_state())
    blind = fit_reading(z[:3000, 4:], y[:3000], z[3000:, 4:], y[3000:])
    assert blind.rmse > 0.5 and blind.r2 < 0.6
