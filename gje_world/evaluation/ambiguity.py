"""The ambiguity suite: fit a belief to a task of known truth, and measure what it still lacks.

The network, the optimiser and all settings are the same for every belief and every task.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gje_world.beliefs import Belief, make_head
from gje_world.evaluation.ambiguous_tasks import Task
from gje_world.evaluation.scores import LEVELS, coverage_error, energy_score, mode_recall
from gje_world.networks import mlp

Predict = Callable[[Tensor], Belief]

BELIEFS: dict[str, dict[str, Any]] = {
    "squared_error": {"name": "diagonal", "log_std_bounds": (-1e-6, 1e-6)},  # whose likelihood it is
    "diagonal": {"name": "diagonal"},
    "low_rank": {"name": "low_rank"},
    "full": {"name": "full"},
    "full_covariance": {"name": "full_covariance"},
    "spectral": {"name": "spectral"},
    "student_t": {"name": "student_t"},
    "mixture": {"name": "mixture", "components": 16},
    "flow": {"name": "flow"},
    "ensemble": {"name": "ensemble"},
    "polar": {"name": "polar"},
}
"""Options of `make_head` by the suite's word for the belief."""

COVERAGE_ERRORS = tuple(f"coverage_error_{100 * level:.0f}" for level in LEVELS)
LAYERS = 3
CHUNK = 100  # contexts measured at once: the draws of a flow in many dimensions take gigabytes
RECALL_CONTEXTS, RECALL_DRAWS = 256, 2048
DRAWN_AT_ONCE = 8  # contexts
ENERGY_DRAWS = 256  # of the same contexts
PORTRAIT_POINTS, PORTRAIT_CONTEXT = 1500, 0.3
HELD_OUT_SEED = 2**31  # far from those of fits


def fits(belief: str, task: Task) -> bool:
    """Whether that belief can be over targets of the task's dimension."""
    try:
        make_head(features=1, dim=task.dim, **BELIEFS[belief])
    except ValueError:
        return False
    return True


def fit(
    task: Task,
    belief: str,
    *,
    seed: int,
    updates: int,
    batch_size: int = 1024,
    lr: float = 2e-3,
    hidden: int = 128,
    device: torch.device | str = "cpu",
    advance: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, float]:
    """Fits a belief to a task by likelihood: Adam, its step falling to zero along a cosine.

    Every update draws fresh data, so nothing can be learnt by heart.

    Arguments:
        belief: a word of `BELIEFS`.
        advance: called after each update.

    Returns a module from contexts `[N, 1]` to the belief over `[N, D]`, and the seconds of 1,000 updates: on
    a CPU those of its cores, which do not depend on what else it does.
    """
    clock = time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    torch.manual_seed(seed)
    generator = Generator(device).manual_seed(seed)
    head = make_head(features=hidden, dim=task.dim, **BELIEFS[belief])
    network = nn.Sequential(mlp(1, hidden, LAYERS), head).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    start = clock()
    for _ in range(updates):
        x, y = task.sample(batch_size, generator)
        loss = -network(x).learning_log_prob(y).mean() / task.dim
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        advance()
    return network.eval(), (clock() - start) / updates * 1000


@torch.no_grad()
def measure(
    task: Task, predict: Predict, held_out: int = 20_000, device: torch.device | str = "cpu"
) -> dict[str, float | None]:
    """What a belief still lacks of the truth, on data that no fit has seen.

    Returns by name:
        entropy: of the target given its context, in nats per dimension, estimated on the held-out data.
        nll_gap: the belief's held-out negative log-likelihood minus the truth's, in nats per dimension.
        mode_recall: share of the modes found; None where the task has but one.
        energy_score, energy_excess: of the belief, and minus that of the truth on the same data.
        coverage_error_50, ...: how far regions of that probability are from holding that share.
    """
    torch.manual_seed(HELD_OUT_SEED)
    generator = Generator().manual_seed(HELD_OUT_SEED)
    x, y = task.sample(held_out, generator)
    log_truth, log_belief, mass = [], [], []
    for x_part, y_part in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        belief, value = predict(x_part.to(device)), y_part.to(device)
        log_truth.append(task.log_prob(y_part, x_part))
        log_belief.append(belief.log_prob(value).cpu().double())
        mass.append(belief.coverage(value).cpu())
    truth_nll = -float(torch.cat(log_truth).mean()) / task.dim
    belief_nll = -float(torch.cat(log_belief).mean()) / task.dim
    errors = coverage_error(torch.cat(mass)).tolist()
    return {
        "entropy": truth_nll,
        "nll_gap": belief_nll - truth_nll,
        **_by_samples(task, predict, x[:RECALL_CONTEXTS], y[:RECALL_CONTEXTS], generator, device),
        **dict(zip(COVERAGE_ERRORS, errors, strict=True)),
    }


def _by_samples(
    task: Task, predict: Predict, x: Tensor, y: Tensor, generator: Generator, device: torch.device | str
) -> dict[str, float | None]:
    """The scores that compare draws from the belief with draws from the truth."""
    parts = x.to(device).split(DRAWN_AT_ONCE)
    drawn = torch.cat([predict(part).sample((RECALL_DRAWS,)).cpu() for part in parts], 1)  # [S, N, D]
    true = task.draw(x, RECALL_DRAWS, generator)
    score, best = (float(energy_score(draws[:ENERGY_DRAWS], y).mean()) for draws in (drawn, true))
    modes = task.modes(x)
    recall = None
    if modes is not None:
        recall = float(mode_recall(task.plane(drawn), task.plane(true), task.plane(modes), task.radius))
    return {"mode_recall": recall, "energy_score": score, "energy_excess": score - best}


def portrait(task: Task, draw: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Points `[P, 2]` that show what `draw` makes of the task.

    Contexts and targets where the target is a number, else the plane of the target at one context.

    Arguments:
        draw: targets `[S, N, D]` for contexts `[N, 1]` and a count `S`.
    """
    if task.dim > 1:
        return task.plane(draw(torch.full((1, 1), PORTRAIT_CONTEXT), PORTRAIT_POINTS).squeeze(1))
    x, _ = task.sample(PORTRAIT_POINTS, Generator().manual_seed(HELD_OUT_SEED))
    return torch.cat([x, draw(x, 1).squeeze(0)], -1)
