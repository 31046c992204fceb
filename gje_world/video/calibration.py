"""Fitting what calibrates a video model: to clips that it has neither learnt from nor is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gje_world.beliefs.scale_mixture import fit_weights
from gje_world.video_model import VideoModel

SCALES = tuple(2 ** (step / 4) for step in range(-4, 13))  # half as wide to eight times
LEAST_WEIGHT = 1e-3  # of a scale that is kept
PRIOR = 10.0  # data that beliefs are held to have told as they are, before any is seen


@torch.no_grad()
def calibrate(
    model: VideoModel,
    windows: Sequence[tuple[Tensor, Tensor]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Set `model.calibration` to the scales that make the next embedding after every whole history likeliest.

    Where nothing has a finite density, nothing is corrected.

    Arguments:
        model: in evaluation mode.
        windows: embeddings `[N, T + H, D]`, with `T` its history, and the actions between them
            `[N, T + H - 1, A]`; several parts.
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
    told = torch.cat(found).cpu()  # weights are fitted in float64, which some devices lack
    return told[told.isfinite().all(-1)]
