"""What an encoder holds while it is pretrained: classes or states, their spread, and beliefs that know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from gje_world.data.image_sources import labelled
from gje_world.data.images import Images
from gje_world.evaluation.calibration import NOMINAL, observed_coverage
from gje_world.evaluation.classification import (
    LEAST_POINTS,
    accuracy,
    fit_linear_probe,
    nearest_neighbours,
)
from gje_world.evaluation.collapse import collapse_gauges
from gje_world.evaluation.embedding import embed_images
from gje_world.evaluation.probe import linear_probe_r2
from gje_world.networks import Encoder
from gje_world.predictor import ViewPredictor


def evaluate_encoder(
    encoder: Encoder,
    train: Images,
    test: Images,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[Any]],
    check: Callable[[], None],
) -> dict[str, Any]:
    """Linear probe and k-NN of labels, R² of states, whichever is known, and the gauges of collapse.

    Arguments:
        train: the probes are fitted to; `test` they are measured on.
        precision: what the encoder runs in; probes are fitted in float32 whatever it is.
        check: called now and then; leaves by raising where someone has asked to stop.
    """

    def embed(images: Tensor) -> Tensor:
        with precision():
            return embed_images(encoder, images, device=device, advance=lambda count: check())

    if train.states is not None and test.states is not None:
        z_train, z_test = embed(train.pixels), embed(test.pixels)
        r2 = linear_probe_r2(z_train, train.states, z_test, test.states)
        found = {f"probe/r2/{name}": value for name, value in zip(train.state_names, r2, strict=True)}
        return collapse_gauges(z_test) | found | {"eval/state_r2": r2.nanmean()}
    known, asked = train.pick(labelled(train)), test.pick(labelled(test))
    if len(known) < LEAST_POINTS or not len(asked):
        return collapse_gauges(embed(test.pixels))
    assert known.labels is not None and asked.labels is not None
    z_train, z_test = embed(known.pixels), embed(asked.pixels)
    check()
    classes = max(2, int(max(known.labels.max(), asked.labels.max())) + 1)
    probe = fit_linear_probe(z_train, known.labels, classes)
    votes = nearest_neighbours(z_train, known.labels, z_test, classes)
    return collapse_gauges(z_test) | {
        "eval/linear_accuracy": accuracy(probe.logits(z_test), asked.labels),
        "eval/knn_accuracy": accuracy(votes, asked.labels),
    }


@torch.no_grad()
def evaluate_beliefs(encoder: Encoder, predictor: ViewPredictor, views: Tensor) -> dict[str, Any]:
    """Whether regions of the belief from one view hold the other as often as they say.

    Arguments:
        views: of held-out images, `[2, B, C, H, W]`.
    """
    z = encoder(views)
    v = predictor.project(z)
    belief = predictor.believe(v)
    try:
        mass = belief.coverage(v.flip(0))
    except NotImplementedError:  # a point has no regions
        return {}
    observed = observed_coverage(mass)
    return {
        "calibration/nominal": list(NOMINAL),
        "calibration/observed": observed,
        "calibration/gap": (observed - torch.tensor(NOMINAL, device=observed.device)).abs().mean(),
        "belief/nll": -belief.log_prob(v.flip(0)).mean() / belief.dim,
        "belief/coverage_50": observed[NOMINAL.index(0.5)],
        "belief/coverage_90": observed[NOMINAL.index(0.9)],
    }
