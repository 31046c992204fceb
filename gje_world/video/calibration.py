"""Fitting what calibrates a video model: to clips that it has neither learnt from nor is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from gje_world.beliefs.scale_mixture import fit_weights
from gje_world.evaluation.foresight import region_mass
from gje_world.training.random_state import forked
from gje_world.video_model import VideoModel

SCALES = tuple(2 ** (step / 4) for step in range(-4, 13))  # half as wide to eight times
LEAST_WEIGHT = 1e-3  # of a scale that is kept
PRIOR = 10.0  # data that beliefs are held to have told as they are, before any is seen
OCTAVES = 3.0  # beliefs that follow sampled embeddings are made at most this often twice as wide, or half
HALVINGS = 6  # of the interval that their factor is searched in
PARTICLES = 32  # sampled futures of each window, in that search
SEED = 2**31  # of them: the same ones at each factor

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
    """Set the factor `later` of `model.calibration` to that at which regions several steps ahead hold what
    they promise.

    The wider the beliefs on the way, the smaller the region of the last one that holds what happened. Of a
    calibrated one its mass is a half on average: the factor at which it is, is found by halving. Where
    nothing has a finite density, nothing is corrected.

    Arguments:
        model: in evaluation mode, calibrated one step ahead (`calibrate`).
        windows: of which the last embedding is held against the belief over it.
        check: as `calibrate` takes it.
    """
    low, high = -OCTAVES, OCTAVES
    with unless_left(model) as before:
        for _ in range(HALVINGS):
            factor = (low + high) / 2
            model.calibration.set(**before | {"later": 2**factor})
            mass = last_masses(model, windows, check)
            low, high = (factor, high) if mass.mean() > 0.5 else (low, factor)
    found = (low + high) / 2 * len(mass) / (len(mass) + PRIOR)
    model.calibration.set(**before | {"later": 2**found})


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


def last_masses(model: VideoModel, windows: Windows, check: Callable[[], None]) -> Tensor:
    """Masses `[N]` of the smallest regions that hold the last embeddings, where they have one."""
    found, generator = [], Generator().manual_seed(SEED)
    for z, action in windows:
        past = z[:, : model.history]
        with forked(z.device, SEED):
            belief = model.propagate(past, action, particles=PARTICLES)[-1]
            draws = model.imagine(past, action, PARTICLES)[-1]
        found.append(region_mass(belief, draws, z[:, -1], generator).cpu())
        check()
    mass = torch.cat(found)
    return mass[mass.isfinite()]
