"""Class probabilities that heed the belief: by its precision, and by a temperature from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from gje_world.beliefs import Belief


def precision_weighted(belief: Belief, mean: Tensor, variance: Tensor) -> Tensor:
    """Features `[..., D]`: the belief's mean, drawn towards the marginal where the belief is unsure.

    The posterior mean of each dimension under the marginal `N(mean, variance)` as the prior and the belief
    as one measurement of its predicted variance.

    Arguments:
        mean, variance: of the training embeddings, `[D]`.
    """
    return mean + variance / (variance + belief.variance) * (belief.mean - mean)


class UncertainTemperature(NamedTuple):
    """A temperature `exp(offset + slope * (uncertainty - centre) / spread)` for each point."""

    offset: float
    slope: float
    centre: float
    spread: float

    def __call__(self, logits: Tensor, uncertainty: Tensor) -> Tensor:
        """`logits [N, K]` divided by the temperature of their `uncertainty [N]`."""
        standard = (uncertainty - self.centre) / self.spread
        return logits / (self.offset + self.slope * standard).exp().unsqueeze(-1)


def fit_uncertain_temperature(logits: Tensor, uncertainty: Tensor, y: Tensor) -> UncertainTemperature:
    """Offset and slope for the best likelihood of labels `y [N]`, on points the classifier was not fitted on.

    With a slope of zero this is plain temperature scaling.

    Arguments:
        logits: `[N, K]`.
        uncertainty: predicted for each point, `[N]`, such as the belief's entropy.
    """
    centre, spread = float(uncertainty.mean()), max(float(uncertainty.std(correction=0)), 1e-12)
    logits, uncertainty = logits.double(), uncertainty.double()

    def nll(parameters: Sequence[float]) -> float:
        offset, slope = parameters
        scaled = UncertainTemperature(offset, slope, centre, spread)(logits, uncertainty)
        return float(F.cross_entropy(scaled, y))

    offset, slope = minimize(nll, (0.0, 0.0), method="Nelder-Mead").x
    return UncertainTemperature(float(offset), float(slope), centre, spread)
