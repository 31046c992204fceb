"""Scores of sampled futures in the variables of a world of known law; defined in `docs/futures_card.md`."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

REACH = 2.5  # of a mode, in root mean squared distances from its place
CLEAR = 0.49  # of the way to the nearest other mode: none holds the middle between two


def mode_radius(truth: Tensor, modes: Tensor, probe_rmse: float) -> Tensor:
    r"""How far from its place `[B]` a mode reaches.

    .. math:: \min\big(2.5 \sqrt{s^2 + e^2},\; 0.49 \min_{j \ne k} |m_j - m_k|\big)

    with `s` the true draws' root mean squared distance from the nearest mode and `e` the probe's error. No
    two modes overlap, so a probe too coarse to tell them apart costs precision, and cannot win recall.

    Arguments:
        truth: draws from the true law, `[S, B, V]`.
        modes: `[B, K, V]`.
        probe_rmse: `e`, root mean squared distance of what the probe reads from what is so.
    """
    spread = torch.cdist(truth.movedim(0, 1), modes).min(-1).values.square().mean(-1)  # [B]
    apart = torch.cdist(modes, modes) + torch.diag(modes.new_full((modes.shape[1],), torch.inf))
    return torch.minimum(REACH * (spread + probe_rmse**2).sqrt(), CLEAR * apart.amin((-2, -1)))


def total_variation(mass: Tensor, probabilities: Tensor) -> Tensor:
    r"""Between the shares of the modes in what fell on any and their true probabilities `[K]`; `[B]`.

    .. math:: 1 - \sum_k \min(\hat p_k, p_k)

    It is 1 where nothing fell on any mode.

    Arguments:
        mass: of each mode, `[B, K]` (`gje_world.evaluation.scores.mass_near`).
    """
    share = mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    return 1 - torch.minimum(share, probabilities).sum(-1)


def nll_gap(mass: Tensor, probabilities: Tensor, count: int) -> Tensor:
    r"""How much worse a predictor encodes the way taken than the truth does, in nats, `[B]`.

    .. math:: \mathrm{KL}(p \,\|\, \hat p), \qquad \hat p_k = (n_k + \tfrac12) / (n + \tfrac K2)

    with `n_k` of all `n` draws on mode `k` (the estimate of Krichevsky and Trofimov, 1981, finite also where
    a mode was never drawn); draws on no mode are lost.

    Arguments:
        mass: `[B, K]`, as for `total_variation`.
        count: of the draws that the masses are shares of.
    """
    share = (mass * count + 0.5) / (count + 0.5 * len(probabilities))
    return (probabilities * (probabilities.log() - share.log())).sum(-1)


def rank_pit(samples: Tensor, value: Tensor, generator: Generator) -> Tensor:
    """Probability integral transform of `value [...]` among `samples [S, ...]`, each number on its own.

    Uniform in [0, 1] where values and samples are of one distribution: ties are broken at random, and so is
    the place between two samples. NaN has no place.
    """
    below = (samples < value).sum(0)
    ties = (samples == value).sum(0) + 1
    place = torch.rand(value.shape, generator=generator).to(value.device)
    return torch.where(value.isnan(), torch.nan, (below + ties * place) / (len(samples) + 1))


def central_coverage(pit: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Share of values in the central intervals of probability `level`, and its standard error: two scalars.

    Variables of one context go together, so the error is that of a mean over contexts.

    Arguments:
        pit: ranks among the draws, `[B, V]` (`rank_pit`).
    """
    inside = ((2 * pit - 1).abs() <= level).float().mean(-1)  # [B]
    return inside.mean(), inside.std() / len(inside) ** 0.5
