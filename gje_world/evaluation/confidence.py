"""Do class probabilities mean what they say: calibration error, proper scores, temperature scaling."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15  # as in Guo et al. (2017)
SURE = 1 - 1e-6  # torchmetrics gives a confidence of exactly 1 a bin of its own, where it would hide
LOG_TEMPERATURES = (-4.0, 6.0)  # looked through for the best


class Reliability(NamedTuple):
    """Bins of a reliability diagram, empty ones left out."""

    confidence: Tensor  # mean in each bin
    accuracy: Tensor  # share of each bin that was right
    share: Tensor  # of all points


def reliability(probabilities: Tensor, y: Tensor, bins: int = BINS, equal_mass: bool = False) -> Reliability:
    """Confidence and accuracy by bins of confidence, the probability of the likeliest class.

    Arguments:
        probabilities: `[N, K]`.
        y: labels `[N]`.
        equal_mass: bins of (nearly) equally many points, rather than of equal width.
    """
    confidence, chosen = probabilities.max(-1)
    right = (chosen == y).float()
    if equal_mass:
        parts = confidence.argsort(stable=True).tensor_split(min(bins, len(y)))
    else:
        # upper ends belong to a bin, as in Guo et al.; a confidence of 1 lies in the last
        edges = torch.linspace(0, 1, bins + 1, device=confidence.device)[1:-1]
        place = torch.bucketize(confidence, edges)
        parts = tuple((place == each).nonzero().squeeze(-1) for each in range(bins))
    parts = tuple(part for part in parts if len(part))
    return Reliability(
        torch.stack([confidence[part].mean() for part in parts]),
        torch.stack([right[part].mean() for part in parts]),
        torch.tensor([len(part) / len(y) for part in parts], device=confidence.device),
    )


def calibration_error(probabilities: Tensor, y: Tensor, bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error of the likeliest class (Naeini et al., 2015; equal mass: Nguyen and
    O'Connor, 2015), the mean over points of their bin's |accuracy - confidence|.

    Arguments:
        probabilities: `[N, K]`.
        y: labels `[N]`.
        equal_mass: bins of (nearly) equally many points, rather than of equal width.
    """
    if equal_mass:
        curve = reliability(probabilities, y, bins, equal_mass=True)
        return float((curve.share * (curve.accuracy - curve.confidence).abs()).sum())
    clamped = probabilities.clamp(max=SURE)
    return float(multiclass_calibration_error(clamped, y, num_classes=probabilities.shape[1], n_bins=bins))


def brier(probabilities: Tensor, y: Tensor) -> float:
    """Brier score, summed over classes: 0 for certain and right, 2 for certain and wrong (Brier, 1950).

    Arguments:
        probabilities: `[N, K]`.
        y: labels `[N]`.
    """
    truth = F.one_hot(y, probabilities.shape[1])
    return float((probabilities - truth).square().sum(-1).mean())


def confidence_scores(probabilities: Tensor, y: Tensor) -> dict[str, float]:
    """`ece`, `ece_equal_mass`, `brier` and `nll` (nats) of `probabilities [N, K]` for labels `y [N]`."""
    return {
        "ece": calibration_error(probabilities, y),
        "ece_equal_mass": calibration_error(probabilities, y, equal_mass=True),
        "brier": brier(probabilities, y),
        "nll": float(F.nll_loss(probabilities.clamp(min=1e-12).log(), y)),
    }


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """Temperature that divides `logits [N, K]` for the best likelihood of `y [N]` (Guo et al., 2017, §4.2).

    To be fitted on points that the classifier was not.
    """

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / torch.tensor(log_temperature).exp(), y))

    return float(torch.tensor(minimize_scalar(nll, bounds=LOG_TEMPERATURES, method="bounded").x).exp())
