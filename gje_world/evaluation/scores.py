"""How good is a belief whose samples or regions can be held against what happened?"""

from __future__ import annotations

import torch
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.evaluation.calibration import observed_coverage

LEVELS = (0.5, 0.9, 0.95)


def surprise(belief: Belief, value: Tensor) -> Tensor:
    """Logarithmic score `[...]` of a belief for what happened, `value [..., D]`, in nats per dimension."""
    return -belief.log_prob(value) / belief.dim


def energy_score(samples: Tensor, value: Tensor) -> Tensor:
    r"""Energy score `[...]` of a belief known by its samples, for what happened; lower is better.

    .. math:: E\|V - v\| - \tfrac12 E\|V - V'\|

    (Gneiting and Raftery, 2007, eq. 22), without bias: pairs of a sample with itself are left out.

    Arguments:
        samples: independent draws `[S, ..., D]`, `S` at least 2.
        value: what happened, `[..., D]`.

    Raises:
        ValueError: there are fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"samples must hold at least 2 draws, got {count}")
    drawn = samples.movedim(0, -2)  # [..., S, D]
    to_value = torch.linalg.vector_norm(drawn - value.unsqueeze(-2), dim=-1).mean(-1)
    # by differences: the quicker way by squares loses the short distances
    apart = torch.cdist(drawn, drawn, compute_mode="donot_use_mm_for_euclid_dist").sum((-2, -1))
    return to_value - apart / (2 * count * (count - 1))


def mass_near(samples: Tensor, modes: Tensor, radius: float | Tensor) -> Tensor:
    """Share of `samples [S, ..., D]` within `radius` (`[...]`) of each of `modes [..., K, D]`; `[..., K]`."""
    drawn = samples.movedim(0, -2)
    distance = torch.cdist(drawn, modes, compute_mode="donot_use_mm_for_euclid_dist")
    return (distance <= torch.as_tensor(radius, device=modes.device)[..., None, None]).float().mean(-2)


def mode_recall(samples: Tensor, truth: Tensor, modes: Tensor, radius: float | Tensor) -> Tensor:
    """Share of the modes that a belief has found, a scalar in [0, 1].

    A mode is found where the belief puts at least half as much mass within `radius` of it as the truth does.

    Arguments:
        samples: draws from the belief, `[S, N, D]`.
        truth: draws from the true distribution, `[S, N, D]`.
        modes: `[N, K, D]`; NaN where there are fewer than `K`.
        radius: of a mode's neighbourhood, one for all or `[N]`.
    """
    there = modes.isfinite().all(-1)
    found = mass_near(samples, modes, radius) >= 0.5 * mass_near(truth, modes, radius)
    return found[there].float().mean()


def coverage_error(mass: Tensor, levels: tuple[float, ...] = LEVELS) -> Tensor:
    """How far the share of points in the belief's regions is from what they promise, `[len(levels)]`.

    Arguments:
        mass: `belief.coverage(value)`, any shape.
        levels: nominal probabilities of the regions.
    """
    nominal = torch.tensor(levels, device=mass.device)
    return (observed_coverage(mass, levels) - nominal).abs()
