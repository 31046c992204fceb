"""The multiple-futures benchmark: does a predictor know which futures there are, and how likely each is?

Everything is scored in the world's own variables, read from embeddings by a probe, so that an encoder that
makes the open question invisible is found out. `docs/futures_card.md` defines worlds, protocol and scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from gje_world.data.world import World
from gje_world.evaluation.futures_scores import (
    central_coverage,
    mode_radius,
    nll_gap,
    rank_pit,
    total_variation,
)
from gje_world.evaluation.reading import Reading, fit_reading
from gje_world.evaluation.scores import LEVELS, energy_score, mass_near

CONTEXT = 5  # frames a predictor sees, the last of them the one after which it is open what happens
HORIZON = 5  # steps ahead
DRAWS = 100  # of each context, for the energy score and the calibration
ORACLE_CONTEXTS = 128  # whose true draws the probe reads, from frames
MODE_CONTEXTS, MODE_DRAWS = 128, 1000  # of the scores of modes
PROBE_EPISODES = 1500  # a fifth of them tells the probe's error
SEED = 20_311  # frozen: the same contexts for every predictor, and for none of them seen in training
CHUNK = 64  # contexts predicted at once
MODE_SCORES = ("recall", "precision", "total_variation", "nll_gap")
SHOWN = 3  # contexts whose draws are kept, to be looked at


class PredictorError(ValueError):
    """A predictor does not answer as it should; the message says which of its functions, and what it gave."""


class Predictor(Protocol):
    """What the benchmark asks of a predictor. Any class with these two functions will do."""

    def embed(self, frames: Tensor) -> Tensor:
        """Embeddings `[B, T', D]` of the last `T'` frames of uint8 `frames [B, T, C, H, W]`: of at least
        `HORIZON`, where there are `CONTEXT + HORIZON` or more."""

    def sample(self, context: Tensor, horizon: int, count: int) -> Tensor:
        """Sampled embeddings `[count, horizon, B, D]` of the frames after uint8 `context [B, T, C, H, W]`."""


@dataclass(frozen=True)
class Question:
    """Contexts `B` after which the true law is known, and what happened after each."""

    frames: Tensor  # uint8 [B, CONTEXT + HORIZON, C, H, W]
    states: np.ndarray  # [B, S] at the last frame of the context
    values: Tensor  # [H, B, V] the scored variables of what happened
    truth: Tensor  # [DRAWS, H, B, V] draws from the true law
    true_states: np.ndarray  # [DRAWS, H, b, S] the states of those after the first contexts
    places: Tensor | None  # [H, B, K, V] of the ways, and their probabilities [K]; None: not few
    probabilities: Tensor | None

    @property
    def context(self) -> Tensor:
        return self.frames[:, :CONTEXT]


@dataclass(frozen=True)
class Scores:
    """What the benchmark found of one predictor in one world: at the last step, at the first, at each."""

    row: dict[str, float | None]
    steps: dict[str, list[float]]  # each score that has one at every step ahead
    pit: Tensor  # [H, B, V]
    shown: Tensor  # [DRAWS, H, SHOWN, V]: draws for the first contexts


def ask(world: World, seed: int = SEED, contexts: int | None = None) -> Question:
    """Held-out contexts of a world that end where it is open what happens; None: as many as it has."""
    contexts = contexts or world.contexts
    generator = np.random.default_rng([seed, 0])
    frames, states = world.generate(generator, contexts, world.latest_decision + 1 + HORIZON)
    window = world.decision(states)[:, None] + np.arange(1 - CONTEXT, HORIZON + 1)
    rows = np.arange(contexts)[:, None]
    here = states[rows, window]  # [B, CONTEXT + HORIZON, S]
    fork = here[:, CONTEXT - 1]
    branches = world.branches(fork, HORIZON)
    true = world.sample_futures(fork, HORIZON, DRAWS, generator)
    return Question(
        frames=torch.from_numpy(frames[rows, window]),
        states=fork,
        values=torch.from_numpy(world.readable(here[:, CONTEXT:])).movedim(0, 1),
        truth=torch.from_numpy(world.readable(true)),
        true_states=true[:, :, :ORACLE_CONTEXTS].copy(),
        places=None if branches is None else torch.from_numpy(branches.places),
        probabilities=None if branches is None else torch.from_numpy(branches.probabilities),
    )


@torch.no_grad()
def fit_probe(world: World, predictor: Predictor) -> Reading:
    """The probe of a predictor's embeddings, fitted on episodes that nothing else is trained or scored on."""
    generator = np.random.default_rng([SEED, 1])
    frames, states = world.generate(generator, PROBE_EPISODES, world.latest_decision + 1 + HORIZON)
    z = torch.cat([predictor.embed(part) for part in torch.from_numpy(frames).split(CHUNK)]).float().cpu()
    y = torch.from_numpy(world.readable(states[:, -z.shape[1] :]))
    test = PROBE_EPISODES // 5
    pairs = ((z[rows].flatten(0, 1), y[rows].flatten(0, 1)) for rows in (slice(test, None), slice(test)))
    (z_fit, y_fit), (z_test, y_test) = pairs
    return fit_reading(z_fit, y_fit, z_test, y_test)


@torch.no_grad()
def score(world: World, predictor: Predictor, question: Question | None = None) -> Scores:
    """Scores a predictor in a world. Same predictor, same scores: all seeds but its own are frozen.

    Arguments:
        question: of `ask(world)`, where it is at hand; the same for all predictors of a world.

    Raises:
        PredictorError: what the predictor embeds or samples is not what it should be.
    """
    question = question or ask(world)
    require_answers(predictor, question)
    reading = fit_probe(world, predictor)

    def draw(part: slice, count: int) -> Tensor:
        return reading(predictor.sample(question.context[part], HORIZON, count).float().cpu())

    happened = torch.cat(
        [reading(predictor.embed(part)[:, -HORIZON:].float().cpu()) for part in question.frames.split(CHUNK)]
    ).movedim(0, 1)
    oracle = read_truth(world, predictor, question, reading)
    found = score_draws(question, draw, happened, reading.rmse, oracle)
    return replace(found, row=found.row | {"probe_r2": reading.r2})


def require_answers(predictor: Predictor, question: Question) -> None:
    """Refuses a predictor whose embeddings or samples are no tensors of the shape that they should have, or
    not finite.

    Raises:
        PredictorError: naming the function, what it gave and what it should.
    """
    frames, rows = question.frames[:2], min(2, len(question.frames))
    most = frames.shape[1]
    with torch.random.fork_rng(devices=[]):
        z = predictor.embed(frames)
        drawn = predictor.sample(frames[:, :CONTEXT], HORIZON, 3)
    for name, found in (("embed", z), ("sample", drawn)):
        if not isinstance(found, Tensor):
            raise PredictorError(f"{name} must give a torch tensor; it gave {type(found).__name__}")
    if z.ndim != 3 or len(z) != rows or not HORIZON <= z.shape[1] <= most:
        raise PredictorError(
            f"embed must give [B, T', D], T' from {HORIZON} to T, of frames [B, T, C, H, W]; of "
            f"{list(frames.shape)} it gave {list(z.shape)}"
        )
    right = [3, HORIZON, rows, z.shape[2]]
    if (shape := list(drawn.shape)) != right:
        raise PredictorError(f"sample must give [count, horizon, B, D], here {right}; it gave {shape}")
    for name, found in (("embed", z), ("sample", drawn)):
        if not found.isfinite().all():
            raise PredictorError(f"{name} must give finite numbers; it gave NaN or infinities")


@torch.no_grad()
def read_truth(world: World, predictor: Predictor, question: Question, reading: Reading) -> Tensor:
    """Draws from the true law as the probe reads them: drawn as frames, embedded, read; `[DRAWS, H, b, V]`.

    How the probe errs depends on the place, so that all draws after a context share most of its error, which
    residuals drawn for each of them on its own would not tell.
    """
    generator = np.random.default_rng([SEED, 3])
    context = question.context[: question.true_states.shape[2]]
    read = []
    for states in question.true_states:  # [H, b, S]
        future = torch.from_numpy(world.draw(states, generator)).movedim(0, 1)
        z = torch.cat([predictor.embed(f) for f in torch.cat([context, future], 1).split(CHUNK)])
        read.append(reading(z[:, -HORIZON:].float().cpu()).movedim(0, 1))
    return torch.stack(read)


@torch.no_grad()
def score_oracle(world: World, question: Question | None = None) -> Scores:
    """The scores of the true law itself, by the same number of draws: what a perfect predictor gets."""
    question = question or ask(world)
    generator = np.random.default_rng([SEED, 2])

    def draw(part: slice, count: int) -> Tensor:
        if count == len(question.truth):
            return question.truth[:, :, part]
        drawn = world.sample_futures(question.states[part], HORIZON, count, generator)
        return torch.from_numpy(world.readable(drawn))

    return score_draws(question, draw, question.values, probe_rmse=0.0)


def score_draws(
    question: Question,
    draw: Callable[[slice, int], Tensor],
    happened: Tensor,
    probe_rmse: float,
    oracle: Tensor | None = None,
) -> Scores:
    """Scores of draws in the world's variables.

    Arguments:
        draw: `draw(part, count)` gives `[count, H, b, V]` for a slice of the question's contexts.
        happened: `[H, B, V]`, what the probe reads from the frames that did follow.
        probe_rmse: the probe's error.
        oracle: `[DRAWS, H, b, V]`, what it reads from frames of the true draws after the first `b` contexts
            (`read_truth`); None: the draws themselves, of a probe that does not err.
    """
    contexts = len(question.states)
    drawn = torch.cat([draw(part, DRAWS) for part in _slices(contexts)], 2)  # [DRAWS, H, B, V]
    pit = rank_pit(drawn, happened, Generator().manual_seed(SEED))  # [H, B, V]
    few = ORACLE_CONTEXTS if oracle is None else oracle.shape[2]
    oracle = question.truth[:, :, :few] if oracle is None else oracle
    mine, raw, best = (
        torch.stack([energy_score(draws[:, h], question.values[h, : draws.shape[2]]) for h in range(HORIZON)])
        for draws in (drawn, question.truth, oracle)
    )  # [H, B], [H, B], [H, b]
    steps = {"energy": mine.mean(1), "energy_true": raw.mean(1), "energy_oracle": best.mean(1)}
    steps["energy_ratio"] = mine[:, :few].mean(1) / steps["energy_oracle"]
    steps["energy_ratio_true"] = steps["energy"] / steps["energy_true"]
    for level in LEVELS:
        share, error = zip(*(central_coverage(ranks, level) for ranks in pit), strict=True)
        steps[f"coverage_error_{100 * level:.0f}"] = (torch.stack(share) - level).abs()
        steps[f"coverage_se_{100 * level:.0f}"] = torch.stack(error)
    at_each = {name: values.tolist() for name, values in steps.items()}
    at_each |= _mode_scores(question, draw, probe_rmse)
    row: dict[str, float | None] = {"probe_rmse": probe_rmse, "probe_r2": None}
    for name in MODE_SCORES:
        row[name] = at_each[name][-1] if name in at_each else None
    row["entropy"] = None
    if question.probabilities is not None:
        row["entropy"] = float(torch.special.entr(question.probabilities).sum())
    for name in steps:
        row[f"{name}_1"], row[f"{name}_{HORIZON}"] = at_each[name][0], at_each[name][-1]
    return Scores(row, at_each, pit, drawn[:, :, :SHOWN])


def _mode_scores(
    question: Question, draw: Callable[[slice, int], Tensor], probe_rmse: float
) -> dict[str, list[float]]:
    """Scores of modes at each step ahead; none where the law is not of a few ways."""
    if question.places is None or question.probabilities is None:
        return {}
    count = min(MODE_CONTEXTS, len(question.states))
    drawn = torch.cat([draw(part, MODE_DRAWS) for part in _slices(count)], 2)
    found: dict[str, list[float]] = {name: [] for name in MODE_SCORES}
    for h in range(HORIZON):
        modes, truth = question.places[h, :count], question.truth[:, h, :count]
        radius = mode_radius(truth, modes, probe_rmse)
        mass = mass_near(drawn[:, h], modes, radius)
        found["recall"].append(float((mass >= 0.5 * question.probabilities).float().mean()))
        found["precision"].append(float(mass.sum(-1).mean()))
        found["total_variation"].append(float(total_variation(mass, question.probabilities).mean()))
        found["nll_gap"].append(float(nll_gap(mass, question.probabilities, MODE_DRAWS).mean()))
    return found


def _slices(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
