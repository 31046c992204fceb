"""What one encoder is worth: classes or states read off it, calibration, out-of-distribution, heatmaps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gje_world.evaluation import collapse_gauges, linear_probe_r2
from gje_world.evaluation import out_of_distribution as ood
from gje_world.evaluation.belief_probe import fit_uncertain_temperature, precision_weighted
from gje_world.evaluation.classification import (
    LinearProbe,
    accuracy,
    fit_linear_probe,
    nearest_neighbours,
)
from gje_world.evaluation.confidence import confidence_scores, fit_temperature, reliability
from gje_world.evaluation.heatmap import masking_heatmap, occlusion_heatmap
from gje_world.evaluation.selective import aurc, rank_correlation, risk_coverage
from gje_world.networks import Encoder
from gje_world.options import ConfigError
from gje_world.pretrained import Pretrained
from gje_world.probing.data import ProbeData
from gje_world.probing.subject import Foresight, Subject, belief_name, embedded_views, has_density
from gje_world.training.tables import Row

FOR_TEMPERATURE = 0.1  # share of the training images kept from the probe, to fit temperatures on
HEATMAPS = 8  # images
CURVE = 200  # points of a risk-coverage curve
Arrays = dict[str, np.ndarray]
Score = Callable[[Tensor], Tensor]


class Findings(NamedTuple):
    """What was found of an encoder: a row of numbers, the arrays that its figures are drawn from, and what
    was said of each image: `labels [M]`, `probabilities/<classifier> [M, K]`, `ood/<score>/inside [M]` and
    `ood/<score>/<set> [O]`, for who compares encoders image by image."""

    row: Row
    arrays: Arrays
    of_images: Arrays


def images_to_embed(pretrained: Pretrained, data: ProbeData) -> int:
    """How often `probe_encoder` calls `advance` for an image, all in all."""
    views = embedded_views(pretrained) if has_density(pretrained) else 0
    return data.count + views * (data.count - len(data.train))


def probe_encoder(
    pretrained: Pretrained,
    data: ProbeData,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    heatmaps: int = HEATMAPS,
    advance: Callable[[int], object] = lambda count: None,
) -> Findings:
    """Measures an encoder, and the belief beside it where there is one. Nothing random but by fixed seeds.

    The row holds, as far as the data and the encoder have what it takes:
        `<classifier>/accuracy`, `/ece`, `/ece_equal_mass`, both with `_floor` and `_se`, `/brier`, `/nll`, of
        the classifiers `linear`, `linear_tempered` (by a temperature), `linear_uncertain` (by one from the
        belief's entropy), `knn`, and over the projection `projection`, `projection_marginalised` (fitted and
        averaged over what the belief holds possible), `projection_weighted`;
        `state/r2` and `state/r2/<name>`;
        `ood/<set>/<score>/auroc`, `/aupr`, `/fpr95`, of the scores `neighbours` of the
        embedding, `marginal` of what beliefs are over, or of the embedding where there are none,
        `mahalanobis` and `confidence` of the embedding where there are labels, and where there is a belief
        with a density `surprise`, `joint` (with the marginal), `epistemic` of an ensemble, and `entropy`,
        which is no measure of novelty: it tells how much views of the image may differ;
        `aurc/<uncertainty>` of the linear probe's errors, and `rank/<uncertainty>`, how it ranks real errors;
        `embedding/std`, `embedding/effective_rank`; `seconds`.

    Arguments:
        pretrained: left on the device, in evaluation mode.
        data: its images must be of the encoder's shape.
        batch_size: images embedded at once.
        heatmaps: of so many test images; each costs some hundred embeddings.
        advance: called with the number of images of each batch embedded.

    Raises:
        ConfigError: the images are of another shape, or the export says of its views what cannot be.
    """
    check_shape(pretrained.encoder, data)
    started = time.perf_counter()
    subject = Subject(pretrained, device, batch_size, advance)
    z_train, z_test = subject.embed(data.train), subject.embed(data.test)
    row: Row = {"data": data.name, **_described(pretrained)}
    row |= {name: float(value) for name, value in collapse_gauges(z_test).items()}
    arrays: Arrays = {}
    of_images: Arrays = {}
    probe = None
    foresight = subject.foresee(data.test, z_test) if subject.believes else None
    if foresight is not None:
        row["rank/entropy_of_view_error"] = rank_correlation(foresight.entropy, foresight.error)
    if data.y_train is not None:
        probe, found = _classes(subject, data, z_train, z_test, foresight)
        row, arrays, of_images = row | found.row, found.arrays, found.of_images
    if data.states_train is not None and data.states_test is not None:
        r2 = linear_probe_r2(z_train, data.states_train, z_test, data.states_test)
        names = (f"state/r2/{name}" for name in data.state_names)
        row |= {"state/r2": float(r2.nanmean()), **dict(zip(names, r2.tolist(), strict=True))}
    detected, scores = _outside(subject, data, z_train, z_test, foresight, probe)
    row, of_images = row | detected, of_images | scores
    if heatmaps:
        arrays |= _heatmaps(subject, data, z_train, heatmaps)
    return Findings(row | {"seconds": time.perf_counter() - started}, arrays, of_images)


def check_shape(encoder: Encoder, data: ProbeData, name: str = "the encoder") -> None:
    """Refuses images that are not of the shape the encoder called `name` takes.

    Raises:
        ConfigError: they are not.
    """
    wanted = (encoder.channels, encoder.image_size, encoder.image_size)
    if data.image_shape != wanted:
        raise ConfigError(
            f"data={data.name} has images of {'x'.join(map(str, data.image_shape))}, {name} takes "
            f"{'x'.join(map(str, wanted))} (channels, height, width)"
        )


def _described(pretrained: Pretrained) -> Row:
    """What the encoder is, in words."""
    method = pretrained.provenance.get("method")
    objective = pretrained.provenance.get("objective")
    return {
        "architecture": pretrained.encoder.name,
        "dim": pretrained.encoder.dim,
        "method": method.get("name") if isinstance(method, dict) else method,
        "objective": objective.get("name") if isinstance(objective, dict) else None,
        "belief": belief_name(pretrained),
    }


def _classes(
    subject: Subject, data: ProbeData, z_train: Tensor, z_test: Tensor, foresight: Foresight | None
) -> tuple[LinearProbe, Findings]:
    """Classifiers on embeddings, how calibrated they are, and whether uncertainty ranks their errors."""
    assert data.y_train is not None and data.y_test is not None
    y_train, y_test, classes = data.y_train, data.y_test, len(data.classes)
    order = torch.randperm(len(z_train), generator=Generator().manual_seed(1))
    count = math.ceil(FOR_TEMPERATURE * len(order))
    kept, fit = order[:count], order[count:]
    probe = fit_linear_probe(z_train[fit], y_train[fit], classes)
    logits_kept, logits = probe.logits(z_train[kept]), probe.logits(z_test)
    temperature = fit_temperature(logits_kept, y_train[kept])
    said = {
        "linear": logits.softmax(-1),
        "linear_tempered": (logits / temperature).softmax(-1),
        "knn": nearest_neighbours(z_train, y_train, z_test, classes),
    }
    wrong = (logits.argmax(-1) != y_test).float()
    loss = F.cross_entropy(logits, y_test, reduction="none")
    doubts = {"confidence": 1 - said["linear"].max(-1).values}
    row: Row = {"linear/penalty": probe.penalty, "linear/temperature": temperature}
    if foresight is not None:
        # of the images as they are, as the probe sees them, and no mean over views
        doubts["entropy"] = entropy = subject.entropy(z_test)
        uncertain = fit_uncertain_temperature(logits_kept, subject.entropy(z_train[kept]), y_train[kept])
        row["linear/temperature_slope"] = uncertain.slope
        said["linear_uncertain"] = uncertain(logits, entropy).softmax(-1)
        said |= _by_projection(subject, z_train[fit], y_train[fit], z_test, classes)
    for name, probabilities in said.items():
        row[f"{name}/accuracy"] = accuracy(probabilities, y_test)
        row |= {f"{name}/{score}": value for score, value in confidence_scores(probabilities, y_test).items()}
    arrays: Arrays = {}
    for name, doubt in doubts.items():
        row |= {
            f"aurc/{name}": aurc(doubt, wrong),
            f"rank/{name}_of_class_loss": rank_correlation(doubt, loss),
        }
        points = torch.linspace(0, len(wrong) - 1, min(CURVE, len(wrong))).round().long()
        arrays[f"risk_{name}"] = torch.stack(risk_coverage(doubt, wrong))[:, points].numpy()
    for name in ("linear", "linear_tempered"):
        arrays[f"reliability_{name}"] = torch.stack(reliability(said[name], y_test)).numpy()
    of_images = {f"probabilities/{name}": probabilities.numpy() for name, probabilities in said.items()}
    return probe, Findings(row, arrays, of_images | {"labels": y_test.numpy()})


def _by_projection(
    subject: Subject, z_train: Tensor, y_train: Tensor, z_test: Tensor, classes: int
) -> dict[str, Tensor]:
    """Class probabilities of the test images over what beliefs are over, with and without the belief.

    All three are fitted to the very features they are asked of, so that none is unsure by construction.
    """
    v_train, v_test = subject.project(z_train), subject.project(z_test)
    probe = fit_linear_probe(v_train, y_train, classes)
    mean, variance = v_train.mean(0), v_train.var(0)

    def weigh(z: Tensor) -> Tensor:
        return subject.of_belief(
            lambda belief: precision_weighted(belief, mean.to(belief.mean), variance.to(belief.mean)), z
        )

    weighted = fit_linear_probe(weigh(z_train), y_train, classes)
    (mean_train, variance_train), (mean_test, variance_test) = map(subject.moments, (z_train, z_test))
    marginalised = fit_linear_probe(mean_train, y_train, classes, variance=variance_train)
    return {
        "projection": probe.logits(v_test).softmax(-1),
        "projection_marginalised": marginalised.logits(mean_test, variance_test).softmax(-1),
        "projection_weighted": weighted.logits(weigh(z_test)).softmax(-1),
    }


def _outside(
    subject: Subject,
    data: ProbeData,
    z_train: Tensor,
    z_test: Tensor,
    foresight: Foresight | None,
    probe: LinearProbe | None,
) -> tuple[Row, Arrays]:
    """How well each score tells the sets outside from the test images, and the scores."""
    by_features: dict[str, Score] = {"neighbours": ood.fit_neighbours(z_train)}
    # the density of what the beliefs are over, where there are any
    believed = subject.project if subject.believes else lambda z: z
    marginal = ood.fit_marginal(believed(z_train))
    if probe is not None and data.y_train is not None:
        by_features["mahalanobis"] = ood.fit_mahalanobis(z_train, data.y_train, len(data.classes))
        by_features["confidence"] = lambda z: 1 - probe.logits(z).softmax(-1).max(-1).values

    def scores(z: Tensor, foresight: Foresight | None) -> dict[str, Tensor]:
        found = {name: score(z) for name, score in by_features.items()} | {"marginal": marginal(believed(z))}
        if foresight is not None:
            found |= {"entropy": foresight.entropy, "surprise": foresight.surprise}
            # the density of an image's v and, given it, of its views', each per dimension, up to a constant
            found["joint"] = foresight.surprise + 0.5 * found["marginal"]
            if foresight.epistemic is not None:
                found["epistemic"] = foresight.epistemic
        return found

    inside = scores(z_test, foresight)
    row: Row = {}
    kept = {f"ood/{score}/inside": values.numpy() for score, values in inside.items()}
    for name, images in data.outside.items():
        z = subject.embed(images)
        outside = scores(z, subject.foresee(images, z) if subject.believes else None)
        for score, values in inside.items():
            found = ood.detection(values, outside[score])
            row |= {f"ood/{name}/{score}/{measure}": value for measure, value in found.items()}
            kept[f"ood/{score}/{name}"] = outside[score].numpy()
    return row, kept


def patch_side(side: int) -> int:
    """Of what divides the side of an image into two parts or more, what is nearest to an eighth of it."""
    divisors = (patch for patch in range(1, side // 2 + 1) if side % patch == 0)
    return min(divisors, key=lambda patch: abs(patch - side / 8))


def _heatmaps(subject: Subject, data: ProbeData, z_train: Tensor, count: int) -> Arrays:
    """Some test images, `[N, H, W, 3]`, and where in them uncertainty comes from, `[N, H, W]` each."""
    images = data.test[:: max(1, len(data.test) // count)][:count]
    name, score = subject.uncertainty(z_train)
    patch = patch_side(images.shape[-1])
    return {
        "images": images[:, -3:].permute(0, 2, 3, 1).numpy(),  # the newest frame of a stack
        "occlusion": occlusion_heatmap(score, images, window=2 * patch, stride=patch).numpy(),
        "masking": masking_heatmap(score, images, patch=patch).numpy(),
        "heat": np.array(name),
    }
