"""Fitting what calibrates a video model: to clips that it has neither learnt from nor is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from gje_world.beliefs import Belief, Pool
from gje_world.beliefs.scale_mixture import fit_weights
from gje_world.evaluation.foresight import region_mass
from gje_world.training.random_state import forked
from gje_world.video_model import VideoModel

SCALES = tuple(2 ** (step / 4) for step in range(-4, 13))  # half as wide to eight times
LEAST_WEIGHT = 1e-3  # of a scale that is kept
PRIOR = 10.0  # data that beliefs are held to have told as they are, before any is seen
MOST_AHEAD = 512  # windows that calibrate several steps ahead
PARTICLES = 16  # sampled futures of each, to tell a belief by, and as many to rank what happened among
OCTAVES = 3.0  # beliefs that follow sampled embeddings are made at most this often twice as wide, or half
HALVINGS = 6  # of the interval that their factor is searched in
PRIOR_AHEAD = 50.0  # data that are held to have told the factor of the step before
SEED = 2**31  # of the futures drawn

Windows = Sequence[tuple[Tensor, Tensor]]
"""Embeddings `[N, T + H, D]`, `T` a history, and actions between them `[N, T + H - 1, A]`; in parts."""


@torch.no_grad()
def calibrate(model: VideoModel, windows: Windows, check: Callable[[], None] = lambda: None) -> None:
    """Set `model.calibration` to the scales that make the next embedding after every whole history likeliest.

    Where nothing has a finite density, nothing is corrected.

    Arguments:
        model: in evaluation mode.
        check: called between the parts; may raise to leave, and the calibration stays as it was.
    """
    before = model.calibration.told
    model.calibration.reset()
    try:
        told = densities(model, windows, check)
    except BaseException:
        model.calibration.set(**before)
        raise
    if len(told):
        prior = torch.tensor([PRIOR if scale == 1 else 0.0 for scale in SCALES])
        found = zip(SCALES, fit_weights(told, prior).tolist(), strict=True)
        kept = {scale: weight for scale, weight in found if weight > LEAST_WEIGHT}
        model.calibration.set([*kept], [weight / sum(kept.values()) for weight in kept.values()])


@torch.no_grad()
def calibrate_ahead(model: VideoModel, windows: Windows, check: Callable[[], None] = lambda: None) -> None:
    """Set the factors `later` of `model.calibration`, one step after the other from the second on, to those
    at which regions hold what they promise.

    The wider a belief, the smaller the region of it that holds what happened. Of a calibrated one its mass is
    a half on average: the factor at which it is, is found by halving. Where data are few, it stays near that
    of the step before. Where nothing has a finite density, nothing is corrected.

    Arguments:
        model: in evaluation mode, calibrated one step ahead (`calibrate`).
        windows: of two steps ahead at least; the first few hundred are enough.
        check: called at each step; may raise to leave, and the calibration stays as it was.

    Raises:
        ValueError: the windows are one step ahead.
    """
    z, action = (torch.cat(parts)[:MOST_AHEAD] for parts in zip(*windows, strict=True))
    first, ahead = model.history, z.shape[1] - model.history
    if ahead < 2:
        raise ValueError(f"windows must be of a history and two steps ahead at least, got {ahead}")
    factors: list[float] = []
    with forked(z.device, SEED), model.precision():
        past = z[:, :first]
        clouds = [past.expand(PARTICLES, *past.shape)] * 2  # draws of the second are ranked by the first
        scales = [model.calibration.draw_scales(cloud.shape[:2], z.device) for cloud in clouds]
        nearest = model.as_learnt(past, action[:, :first])
        beliefs: list[Belief] = [nearest.rescale(scale) for scale in scales]
        for end in range(first + 1, first + ahead):
            drawn = [belief.rsample() for belief in beliefs]
            seen = [model.onward(*one, action[:, :end]) for one in zip(clouds, drawn, strict=True)]
            clouds, beliefs = [cloud for cloud, _ in seen], [belief for _, belief in seen]
            before = factors[-1] if factors else 1.0
            factors.append(fitting_factor(beliefs, scales, z[:, end], before))
            beliefs = [b.rescale(factors[-1] * scale) for b, scale in zip(beliefs, scales, strict=True)]
            check()
    if any(factor != 1 for factor in factors):
        model.calibration.set(**model.calibration.told | {"later": factors})


def fitting_factor(
    beliefs: Sequence[Belief], scales: Sequence[Tensor], value: Tensor, before: float
) -> float:
    """Of the scales `[P, N]` of two clouds' beliefs: that at which the smallest region of the first one's
    pool that holds `value [N, D]`, its mass told by draws of the second, has a mass of a half on average.

    Arguments:
        before: the factor that so much as `PRIOR_AHEAD` data are held to have told.
    """
    low, high = -OCTAVES, OCTAVES
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pool, other = (b.rescale(2**middle * s) for b, s in zip(beliefs, scales, strict=True))
        mass = region_mass(Pool(pool), other.rsample(), value, Generator().manual_seed(SEED))
        mass = mass[mass.isfinite()]
        low, high = (middle, high) if mass.mean() > 0.5 else (low, middle)
    share = len(mass) / (len(mass) + PRIOR_AHEAD)
    return 2 ** (share * (low + high) / 2) * before ** (1 - share)


def densities(model: VideoModel, windows: Windows, check: Callable[[], None]) -> Tensor:
    """Log-densities `[N, S]` of embeddings after whole histories at each scale, where all are finite."""
    found = []
    for z, action in windows:
        belief, value = model.believe_each(z[:, :-1], action), z[:, 1:]
        each = belief.log_prob_at_scales(value, value.new_tensor(SCALES))  # [N, T + H - 1, S]
        found.append(each[:, model.history - 1 :].flatten(0, 1))
        check()
    told = torch.cat(found).cpu()  # weights are fitted in float64, which some devices lack
    return told[told.isfinite().all(-1)]
