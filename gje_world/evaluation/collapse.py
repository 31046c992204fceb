"""Gauges that show whether embeddings collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from gje_world.objectives.statistics import moments, own


@torch.no_grad()
def between_clips(z: Tensor) -> Tensor:
    """Share of the variance of `z [N, T, D]` between the means of the `N` clips, a scalar in [0, 1].

    Where it is near 1, embeddings tell one clip from another and hardly anything of what happens in them.
    """
    total = z.flatten(0, 1).var(0, correction=0).sum()
    return z.mean(1).var(0, correction=0).sum() / total.clamp(min=torch.finfo(z.dtype).tiny)


@torch.no_grad()
def collapse_gauges(z: Tensor) -> dict[str, Tensor]:
    """Spread of the embeddings `z [..., D]` as detached scalars; where there are ranks, of this one's.

    `embedding/std` is the root mean variance over dimensions; `embedding/effective_rank` the exponential of
    the entropy of the covariance's normalised eigenvalues (Roy and Vetterli, 2007), between 1 and D.
    """
    _, covariance = moments(z.float(), over_ranks=own)
    shares = torch.linalg.eigvalsh(covariance).clamp(min=0)
    shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
    return {
        "embedding/std": covariance.diagonal().mean().sqrt(),
        "embedding/effective_rank": torch.special.entr(shares).sum().exp(),
    }
