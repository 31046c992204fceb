"""Fitting what calibrates a video model: to clips that it has neither learnt from nor is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
PARTICLES = 32  # sampled futures of each, to tell a belief by, and as many to rank what happened among
OCTAVES = 3.0  # beliefs that follow sampled embeddings are made at most this often twice as wide, or half
HALVINGS = 6  # of the interval that their factor is searched in
SEED = 2**31

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
    with unless_left(model):
        model.calibration.reset()
        told = densities(model, windows, check)
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
    a half on average: the factor at which it is, is found by halving, and held back a little where data are
    few. Where nothing has a finite density, nothing is corrected.

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
    with unless_left(model), forked(z.device, SEED), model.precision():
        clouds = [
            z[:, :first].expand(PARTICLES, *z[:, :first].shape)
        ] * 2  # the second one's draws are ranked
        scales = [model.calibration.draw_scales(clouds[0].shape[:2], z.device) for _ in clouds]
        beliefs = [model.as_learnt(z[:, :first], action[:, :first]).rescale(scale) for scale in scales]
        for step in range(2, ahead + 1):
            drawn = [belief.rsample() for belief in beliefs]
            end = first + step - 1
            pairs = [model.onward(*one, action[:, :end]) for one in zip(clouds, drawn, strict=True)]
            clouds, each = [cloud for cloud, _ in pairs], [belief for _, belief in pairs]
            factors.append(fitting_factor(each, scales, z[:, end]))
            beliefs = [b.rescale(factors[-1] * scale) for b, scale in zip(each, scales, strict=True)]
            check()
    if any(factor != 1 for factor in factors):
        model.calibration.set(**model.calibration.told | {"later": factors})


def fitting_factor(beliefs: Sequence[Belief], scales: Sequence[Tensor], value: Tensor) -> float:
    """Of the scales `[P, N]` of beliefs: that at which the region of the first ones' pool that holds `value`
    `[N, D]`, its mass told by draws from the others, is of a mass of a half on average."""
    low, high = -OCTAVES, OCTAVES
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pool, other = (b.rescale(2**middle * s) for b, s in zip(beliefs, scales, strict=True))
        mass = region_mass(Pool(pool), other.rsample(), value, Generator().manual_seed(SEED))
        mass = mass[mass.isfinite()]
        low, high = (middle, high) if mass.mean() > 0.5 else (low, middle)
    return 2 ** ((low + high) / 2 * len(mass) / (len(mass) + PRIOR))


@contextmanager
def unless_left(model: VideoModel) -> Iterator[dict[str, Any]]:
    """What the calibration told before the block, to which it goes back where the block is left early."""
    before = model.calibration.told
    try:
        yield before
    except BaseException:
        model.calibration.set(**before)
        raise


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
