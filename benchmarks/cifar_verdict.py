"""What the runs of `cifar_table.py` say of the targets: means over seeds, and intervals over test images.

The method that stands for GJE is the one of the best mean linear accuracy, for every target alike: none is
chosen by its calibration error. It is chosen on the same test images, which intervals do not allow for. They
are of 95 % over test images, paired: the same images are drawn for both sides of a difference. They do not
tell how seeds differ; each seed stands in the table of results. GJE had three options chosen on validation
images, the baselines none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gje_world.evaluation.confidence import calibration_error, resampled_calibration_errors
from gje_world.probing.encoder import Arrays
from gje_world.probing.table import markdown
from gje_world.training.tables import Row

PRIMARY = "linear"  # classifier of the accuracy and of the calibration error that targets speak of
BELIEF_AWARE = "projection_marginalised"
NOISE = ", within noise"
SETS = ("noise", "textures", "digits")
BELIEF_SCORE, FEATURE_SCORE = "joint", "mahalanobis"
WIDTH = 1.96  # standard errors on either side
POINTS_BELOW = 1.0  # that GJE's accuracy may be
SETS_WANTED = 2
SECONDS = 20 * 60
RESULTS = {
    "linear_accuracy": "linear ↑",
    "knn_accuracy": "k-NN ↑",
    "linear_ece": "ECE, linear, no temperature ↓",
    "linear_ece_floor": "its floor",
    "linear_tempered_ece": "ECE, tempered ↓",
    "projection_marginalised_ece": "ECE, over the belief ↓",
    "linear_brier": "Brier ↓",
    "linear_nll": "NLL ↓",
    **{
        f"ood_{kind}_{score}": f"{kind}: {score} ↑"
        for kind in SETS
        for score in (BELIEF_SCORE, FEATURE_SCORE)
    },
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Run:
    """A row of the table; what was said of each image (`gje_world.probing.encoder.Findings`) or None."""

    row: Row
    predictions: Arrays | None

    def predicted(self) -> Arrays:
        """What was said of each image.

        Raises:
            ValueError: it is not known.
        """
        if self.predictions is None:
            raise ValueError(f"no predictions of {self.row.get('method')}, by which targets are told")
        return self.predictions

    def labels(self) -> Tensor:
        """Of the test images, `[N]`."""
        return torch.from_numpy(self.predicted()["labels"])

    def probabilities(self, classifier: str) -> Tensor:
        """Of the test images, `[N, K]`."""
        return torch.from_numpy(self.predicted()[f"probabilities/{classifier}"])


class Difference(NamedTuple):
    """A difference and its standard error over images."""

    value: float
    error: float

    def interval(self, scale: float = 1.0) -> str:
        ends = (self.value - WIDTH * self.error, self.value + WIDTH * self.error)
        return " to ".join(f"{scale * end:+.4g}" for end in ends)

    def told(self, limit: float, above: bool) -> str:
        """Whether it is on the right side of a limit, and whether the interval says so too."""
        met = self.value >= limit if above else self.value < limit
        clear = abs(self.value - limit) > WIDTH * self.error
        return f"{'met' if met else 'not met'}{'' if clear else NOISE}"


def accuracy_difference(ours: Sequence[Run], theirs: Sequence[Run]) -> Difference:
    """Of mean linear accuracies; its error is that of a mean over images."""
    right = [
        torch.stack([(run.probabilities(PRIMARY).argmax(-1) == run.labels()).double() for run in runs]).mean(
            0
        )
        for runs in (ours, theirs)
    ]
    apart = right[0] - right[1]
    return Difference(float(apart.mean()), float(apart.std() / len(apart) ** 0.5))


def calibration_difference(
    ours: Sequence[Run], theirs: Sequence[Run], classifier: str = PRIMARY
) -> Difference:
    """Of mean calibration errors, ours by `classifier`; its error by a paired bootstrap over images."""
    sides = []
    for runs, name in ((ours, classifier), (theirs, PRIMARY)):
        said = [(run.probabilities(name), run.labels()) for run in runs]
        value = sum(calibration_error(*each) for each in said) / len(said)
        sides.append((value, torch.stack([resampled_calibration_errors(*each) for each in said]).mean(0)))
    (value, draws), (other, other_draws) = sides
    return Difference(value - other, float((draws - other_draws).std()))


def detection_difference(runs: Sequence[Run], kind: str) -> Difference:
    """Of mean AUROCs, by the belief's score and by Mahalanobis distance on the same encoders.

    Its error is DeLong's (1988, eq. 4 to 6), of two correlated areas, over images inside and outside.
    """
    inside, outside = [], []
    for said in (run.predicted() for run in runs):
        ours, theirs = (
            placements(*(torch.from_numpy(said[f"ood/{score}/{part}"]) for part in ("inside", kind)))
            for score in (BELIEF_SCORE, FEATURE_SCORE)
        )
        inside.append(ours[0] - theirs[0])
        outside.append(ours[1] - theirs[1])
    within, beyond = torch.stack(inside).mean(0), torch.stack(outside).mean(0)
    error = (within.var() / len(within) + beyond.var() / len(beyond)).sqrt()
    return Difference(float(beyond.mean()), float(error))


def placements(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Of each score `[N]` inside the share of those outside above it, and of each `[M]` outside the share of
    those inside below it, ties by half; the mean of either is the AUROC."""

    def share_below(values: Tensor, others: Tensor) -> Tensor:
        ordered = others.sort().values
        places = [torch.searchsorted(ordered, values, right=right) for right in (False, True)]
        return (places[0] + places[1]).double() / (2 * len(others))

    return 1 - share_below(inside, outside), share_below(outside, inside)


def results(runs: Mapping[str, Sequence[Run]]) -> str:
    """A row for each method: of each column the mean over seeds and, in brackets, each of them."""
    rows: list[Row] = []
    for name, each in runs.items():
        row: Row = {"method": name}
        for column in RESULTS:
            values = [run.row[column] for run in each if run.row.get(column) is not None]
            if values:
                digits = 0 if column == "seconds" else 4
                seeds = ", ".join(f"{value:.{digits}f}" for value in values)
                row[column] = f"{sum(values) / len(values):.{digits}f} ({seeds})"
        rows.append(row)
    return markdown(rows, {"method": "method"} | RESULTS)


def targets(runs: Mapping[str, Sequence[Run]], gje: Sequence[str], baselines: Sequence[str]) -> str:
    """How targets are judged, then a row for each: what it is, the value, its interval, whether it is met.

    Arguments:
        runs: of each method, a run for each seed, with what was said of each image.
        gje, baselines: names of the methods that targets are about; one of each at least.
    """

    def accuracy(name: str) -> float:
        return sum(run.row["linear_accuracy"] for run in runs[name]) / len(runs[name])

    best, best_baseline = max(gje, key=accuracy), max(baselines, key=accuracy)
    ours = runs[best]
    rows: list[Row] = []

    def add(target: str, value: str, interval: str, met: str) -> None:
        rows.append({"target": target, "value": value, "interval": interval, "met": met})

    apart = accuracy_difference(ours, runs[best_baseline])
    add(
        f"linear accuracy of {best} less that of {best_baseline}, the best baseline: at least "
        f"{-POINTS_BELOW:g} points",
        f"{100 * apart.value:+.2f}",
        apart.interval(100),
        apart.told(-POINTS_BELOW / 100, above=True),
    )
    lower = {name: calibration_difference(ours, runs[name]) for name in baselines}
    each = {name: apart.told(0.0, above=False) for name, apart in lower.items()}
    for name, apart in lower.items():
        words = f"ECE of {best} less that of {name}, linear, no temperature: below 0"
        add(words, f"{apart.value:+.4f}", apart.interval(), each[name])
    below = sum(told.startswith("met") for told in each.values())
    unclear = [name for name, told in each.items() if told.endswith(NOISE)]
    told = "met" if below == len(each) else "not met"
    told += f"{NOISE} of {', '.join(unclear)}" if unclear else ""
    add(f"ECE of {best} the lowest", f"below {below} of {len(each)} baselines", "–", told)
    for name in baselines:
        apart = calibration_difference(ours, runs[name], BELIEF_AWARE)
        words = f"beside the target: ECE of {best} over the belief less that of {name}, linear"
        add(words, f"{apart.value:+.4f}", apart.interval(), "–")
    higher = []
    for kind in SETS:
        apart = detection_difference(ours, kind)
        higher.append(apart.value > 0)
        words = f"{kind}: AUROC of {best} by {BELIEF_SCORE} less that by {FEATURE_SCORE}: above 0"
        reversed_ = Difference(-apart.value, apart.error)
        add(words, f"{apart.value:+.4f}", apart.interval(), reversed_.told(0.0, above=False))
    told = "met" if sum(higher) >= SETS_WANTED else "not met"
    words = f"AUROC by {BELIEF_SCORE} higher on at least {SETS_WANTED} of {len(SETS)} sets"
    add(words, f"on {sum(higher)}", "–", told)
    slowest = max((run.row["seconds"], name) for name in (*gje, *baselines) for run in runs[name])
    told = "met" if slowest[0] <= SECONDS else "not met"
    add(
        f"seconds of the slowest run of these methods, {slowest[1]}: at most {SECONDS}",
        f"{slowest[0]:.0f}",
        "–",
        told,
    )
    columns = {"target": "target", "value": "value", "interval": "95 % over test images", "met": "met"}
    return __doc__.partition("\n\n")[2] + "\n" + markdown(rows, columns)
