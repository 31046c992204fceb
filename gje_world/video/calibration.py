"""Fitting what calibrates a video model: to clips that it has neither learnt from nor is measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gje_world.beliefs.scale_mixture import fit_weights
from gje_world.evaluation.foresight import likelihood
from gje_world.training.random_state import forked
from gje_world.video_model import VideoModel

SCALES = tuple(2 ** (step / 4) for step in range(-4, 13))  # half as wide to eight times
LEAST_WEIGHT = 1e-3  # of a scale that is kept
PRIOR = 10.0  # data that beliefs are held to have told as they are, before any is seen
CARRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
ROLLED = 128  # windows that futures are sampled after
PARTICLES = 32
SEED = 2**31


@torch.no_grad()
def calibrate(
    model: VideoModel,
    windows: Sequence[tuple[Tensor, Tensor]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Set `model.calibration` to what makes windows likeliest.

    Scales by the next embedding after every whole history; then, with these, what is carried on by the
    embeddings from two steps ahead on, under the Gaussian of mean and covariance of sampled futures. Where
    nothing has a finite density, nothing is corrected.

    Arguments:
        model: in evaluation mode.
        windows: embeddings `[N, T + H, D]`, with `T` its history, and the actions between them
            `[N, T + H - 1, A]`; several parts.
        check: called between the parts; may raise to leave.
    """
    before = model.calibration.told
    try:
        fit(model, windows, check)
    except BaseException:  # one who leaves finds it as it was
        model.calibration.set(**before)
        raise


def fit(model: VideoModel, windows: Sequence[tuple[Tensor, Tensor]], check: Callable[[], None]) -> None:
    """As `calibrate`, which sees to it that none is left half done."""
    model.calibration.reset()
    told = densities(model, windows, check)
    if not len(told):
        return
    prior = torch.tensor([PRIOR if scale == 1 else 0.0 for scale in SCALES], device=told.device)
    found = zip(SCALES, fit_weights(told, prior).tolist(), strict=True)
    kept = {scale: weight for scale, weight in found if weight > LEAST_WEIGHT}
    scales, shares = [*kept], [weight / sum(kept.values()) for weight in kept.values()]
    errors = {}
    for carried in CARRIED:
        model.calibration.set(scales, shares, carried)
        errors[carried] = surprise_ahead(model, windows)
        check()
    model.calibration.set(scales, shares, min(errors, key=errors.__getitem__))


def densities(
    model: VideoModel, windows: Sequence[tuple[Tensor, Tensor]], check: Callable[[], None]
) -> Tensor:
    """Log-densities `[N, S]` of embeddings after whole histories at each scale, where all are finite."""
    found = []
    for z, action in windows:
        belief, value = model.believe_each(z[:, :-1], action), z[:, 1:]
        each = belief.log_prob_at_scales(value, value.new_tensor(SCALES))  # [N, T + H - 1, S]
        found.append(each[:, model.history - 1 :].flatten(0, 1))
        check()
    told = torch.cat(found)
    return told[told.isfinite().all(-1)]


def surprise_ahead(model: VideoModel, windows: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean surprise in nats at the embeddings from two steps ahead on, always by the same draws."""
    past, left, total, count = model.history, ROLLED, 0.0, 0
    for z, action in windows:
        z, action = z[:left], action[:left]
        left -= len(z)
        if len(z) and z.shape[1] > past + 1:
            with forked(z.device, SEED):
                beliefs = model.propagate(z[:, :past], action, "particles", PARTICLES)
            for belief, value in zip(beliefs[1:], z[:, past + 1 :].unbind(1), strict=True):
                total -= float(likelihood(belief).log_prob(value).sum())
                count += len(z)
    return total / max(1, count) if math.isfinite(total) else math.inf
