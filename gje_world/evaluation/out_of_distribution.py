"""Out of distribution: scores by the belief and by features, and how well a score tells outside from inside.

A score is high where an image is unlike those of the training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_specificity_at_sensitivity,
)

from gje_world.beliefs import Belief
from gje_world.objectives.statistics import moments, own

SENSITIVITY = 0.95
NEIGHBOUR = 50  # k of Sun et al. (2022) on CIFAR-10
RIDGE = 1e-4  # share of the mean variance added to every direction: a collapsed one must not decide alone
CHUNK = 1024


def detection(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """How well scores tell `outside [M]` from `inside [N]`.

    Returns `auroc`; `aupr`, the average precision with outside as the positive class; `fpr95`, the share of
    outside taken for inside where 95 % of inside are (Liang et al., 2018).

    Raises:
        ValueError: a score is NaN.
    """
    scores = torch.cat([inside, outside]).cpu()
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN")
    # ranks: torchmetrics puts numbers beyond [0, 1] through a sigmoid, in which large ones become one
    levels, place = scores.unique(return_inverse=True)
    rank = place.double() / len(levels)
    is_outside = torch.arange(len(scores)) >= len(inside)
    specificity, _ = binary_specificity_at_sensitivity(1 - rank, (~is_outside).long(), SENSITIVITY)
    return {
        "auroc": float(binary_auroc(rank, is_outside.long())),
        "aupr": float(binary_average_precision(rank, is_outside.long())),
        "fpr95": 1 - float(specificity),
    }


def entropy_score(belief: Belief) -> Tensor:
    """Predicted entropy `[...]` of a belief, in nats per dimension: what the other view might have been."""
    return belief.entropy() / belief.dim


@dataclass(frozen=True)
class GaussianScore:
    """Squared Mahalanobis distance to the nearest of `K` Gaussians of one covariance.

    With one Gaussian it is, up to constants, the negative log-density of a normal marginal.
    """

    means: Tensor  # [K, D]
    whitening: Tensor  # [D, D]: maps differences to where their squared length is the distance

    def __call__(self, z: Tensor) -> Tensor:
        """Score `[N]` of `z [N, D]`, per dimension."""
        whitened, centres = z.float() @ self.whitening, self.means @ self.whitening
        distance = torch.cdist(whitened, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.min(-1).values.square() / z.shape[-1]


def fit_marginal(z: Tensor) -> GaussianScore:
    """One Gaussian over all training embeddings `z [N, D]`; needs no labels."""
    mean, covariance = moments(z.float(), over_ranks=own)
    return GaussianScore(mean.unsqueeze(0), _whitening(covariance))


def fit_mahalanobis(z: Tensor, y: Tensor, classes: int) -> GaussianScore:
    """A Gaussian for each class, with a tied covariance (Lee et al., 2018).

    Arguments:
        z: training embeddings `[N, D]`.
        y: their labels `[N]`, int64 in `[0, classes)`; a class without points is left out.
    """
    z = z.float()
    count = torch.bincount(y, minlength=classes)
    sums = z.new_zeros(classes, z.shape[1]).index_add_(0, y, z)
    means = sums / count.clamp(min=1).unsqueeze(-1)
    _, covariance = moments(z - means[y], over_ranks=own)
    return GaussianScore(means[count > 0], _whitening(covariance))


def _whitening(covariance: Tensor) -> Tensor:
    """`W` with `W Wᵀ` the inverse of the `covariance [D, D]`, its small directions lifted by `RIDGE`."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = RIDGE * values.clamp(min=0).mean() + torch.finfo(values.dtype).tiny
    return vectors * (values.clamp(min=0) + floor).rsqrt()


@dataclass(frozen=True)
class NeighbourScore:
    """Distance of normalised embeddings to their k-th nearest in the training data (Sun et al., 2022)."""

    bank: Tensor  # [N, D], of length one
    neighbour: int

    def __call__(self, z: Tensor) -> Tensor:
        """Score `[N]` of `z [N, D]`."""
        return torch.cat(
            [
                # of vectors of length one, |a - b|² = 2 - 2 a·b
                (2 - 2 * (part @ self.bank.T).topk(self.neighbour).values[:, -1]).clamp(min=0).sqrt()
                for part in F.normalize(z.float(), dim=-1).split(CHUNK)
            ]
        )


def fit_neighbours(z: Tensor, neighbour: int = NEIGHBOUR) -> NeighbourScore:
    """The distance to the k-th nearest of training embeddings `z [N, D]`; k is at most N."""
    return NeighbourScore(F.normalize(z.float(), dim=-1), min(neighbour, len(z)))
