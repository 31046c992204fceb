"""Do class probabilities mean what they say: calibration error, proper scores, temperature scaling."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15  # as in Guo et al. (2017)
SURE = 1 - 1e-6  # torchmetrics gives a confidence of exactly 1 a bin of its own, where it would hide
LOG_TEMPERATURES = (-4.0, 6.0)  # looked through for the best
DRAWS = 300  # of labels, and of the points themselves: the noise of a calibration error
AT_ONCE = 1 << 20  # random numbers


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
    confidence, chosen = (found.cpu() for found in probabilities.max(-1))
    right, place = (chosen == y.cpu()).double(), _bins(confidence, bins, equal_mass)
    count, confident, correct = (
        torch.bincount(place, weights, minlength=bins) for weights in (None, confidence.double(), right)
    )
    there = count > 0
    return Reliability(
        (confident[there] / count[there]).float(),
        (correct[there] / count[there]).float(),
        (count[there] / len(y)).float(),
    )


def _bins(confidence: Tensor, bins: int, equal_mass: bool) -> Tensor:
    """The bin `[N]`, from 0, of each `confidence [N]`."""
    if not equal_mass:
        # upper ends belong to a bin, as in Guo et al.; a confidence of 1 lies in the last
        return torch.bucketize(confidence, torch.linspace(0, 1, bins + 1)[1:-1])
    rank = confidence.argsort(stable=True).argsort()
    return rank * min(bins, len(confidence)) // len(confidence)


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


def calibration_floor(probabilities: Tensor, bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error that the probabilities would have were they right: what noise alone makes.

    Finitely many points never fall as expected, and the error takes the size of each bin's gap (Nixon et al.,
    2019; Roelofs et al., 2022). The mean over `DRAWS` sets of labels drawn from the probabilities, always the
    same ones.

    Arguments:
        probabilities: `[N, K]`.
        equal_mass: bins of (nearly) equally many points, rather than of equal width.
    """
    confidence = probabilities.max(-1).values.cpu()
    place, generator = _bins(confidence, bins, equal_mass), Generator().manual_seed(0)
    errors = []
    for count in _parts(len(confidence)):
        # of a label from the probabilities, only whether it is the likeliest class matters
        right = torch.rand(count, len(confidence), generator=generator) < confidence
        errors.append(_errors(right.float() - confidence, place.expand(count, -1), bins))
    return float(torch.cat(errors).mean())


def resampled_calibration_errors(
    probabilities: Tensor, y: Tensor, bins: int = BINS, equal_mass: bool = False
) -> Tensor:
    """Calibration errors `[DRAWS]` on points drawn with replacement (Efron, 1979), each in its own bin still.

    For a number of points the draws are always the same, so that differences between two classifiers of the
    same points are paired. Their spread is that of the error, or up to a third above it near the floor, where
    gaps are folded at zero; their mean is above the error, as noise is added to noise, so that an interval is
    to be taken from the spread.

    Arguments:
        probabilities: `[N, K]`.
        y: labels `[N]`.
        equal_mass: bins of (nearly) equally many points, rather than of equal width.
    """
    confidence, chosen = (found.cpu() for found in probabilities.max(-1))
    gap = (chosen == y.cpu()).float() - confidence
    place, generator = _bins(confidence, bins, equal_mass), Generator().manual_seed(0)
    errors = []
    for count in _parts(len(y)):
        drawn = torch.randint(len(y), (count, len(y)), generator=generator)
        errors.append(_errors(gap[drawn], place[drawn], bins))
    return torch.cat(errors)


def _parts(points: int) -> list[int]:
    """How many of `DRAWS` draws of so many points are made at once, time after time."""
    most = max(1, AT_ONCE // points)
    return [min(most, DRAWS - start) for start in range(0, DRAWS, most)]


def _errors(gap: Tensor, place: Tensor, bins: int) -> Tensor:
    """Calibration errors `[R]` of `gap [R, N]`, right or not minus confidence, in the bins `place [R, N]`."""
    return gap.new_zeros(len(gap), bins).scatter_add_(1, place, gap).abs().sum(-1) / gap.shape[1]


def brier(probabilities: Tensor, y: Tensor) -> float:
    """Brier score, summed over classes: 0 for certain and right, 2 for certain and wrong (Brier, 1950).

    Arguments:
        probabilities: `[N, K]`.
        y: labels `[N]`.
    """
    truth = F.one_hot(y, probabilities.shape[1])
    return float((probabilities - truth).square().sum(-1).mean())


def confidence_scores(probabilities: Tensor, y: Tensor) -> dict[str, float]:
    """Scores of `probabilities [N, K]` for labels `y [N]`: `ece`, `ece_equal_mass`, `brier`, `nll` (nats).

    Beside each of the two calibration errors `…_floor`, what it would be were the probabilities right, and
    `…_se`, its standard error over points.
    """
    scores = {}
    for name, equal_mass in (("ece", False), ("ece_equal_mass", True)):
        scores[name] = calibration_error(probabilities, y, equal_mass=equal_mass)
        scores[f"{name}_floor"] = calibration_floor(probabilities, equal_mass=equal_mass)
        resampled = resampled_calibration_errors(probabilities, y, equal_mass=equal_mass)
        scores[f"{name}_se"] = float(resampled.std())
    nll = float(F.nll_loss(probabilities.clamp(min=1e-12).log(), y))
    return scores | {"brier": brier(probabilities, y), "nll": nll}


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """Temperature that divides `logits [N, K]` for the best likelihood of `y [N]` (Guo et al., 2017, §4.2).

    To be fitted on points that the classifier was not.
    """

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / torch.tensor(log_temperature).exp(), y))

    return float(torch.tensor(minimize_scalar(nll, bounds=LOG_TEMPERATURES, method="bounded").x).exp())
