"""Retrieval: does a belief find its own future among those of others, and among other moments of its own?"""

from __future__ import annotations

import torch
from torch import Tensor

from gje_world.beliefs import Belief


@torch.no_grad()
def retrieval_ranks(belief: Belief, target: Tensor, others: Tensor) -> Tensor:
    """Rank `[N]`, from 1, of each row's own target by its belief's density, among the targets of all rows and
    what else the row holds: `N + M` candidates.

    Candidates as dense as the own target count half, as if chance put them before or after it: where all
    embeddings are alike nothing is found. A density that is NaN finds nothing either.

    Arguments:
        belief: of batch shape `[N]`; of a cloud of particles its `gje_world.evaluation.foresight.likelihood`.
        target: `[N, D]`.
        others: of each row, `[M, N, D]`.
    """
    density = torch.stack([belief.log_prob(z.expand_as(target)) for z in target])  # [candidate, N]
    own = density.diagonal()
    candidates = torch.cat([density, belief.log_prob(others)])
    ties = candidates == own
    ties[: len(own)].fill_diagonal_(False)  # each with itself
    return len(candidates) - (candidates < own).sum(0) - 0.5 * ties.sum(0)


def mean_reciprocal_rank(ranks: Tensor) -> Tensor:
    """Mean of one over the rank, a scalar in (0, 1]."""
    return ranks.float().reciprocal().mean()


def chance_reciprocal_rank(candidates: int) -> float:
    """Mean of one over a rank that is uniform from 1 to `candidates`: where a belief knows nothing."""
    return sum(1 / rank for rank in range(1, candidates + 1)) / candidates
