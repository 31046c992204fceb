"""Retrieval: does a belief find its own future among those of others, and among other moments of its own?"""

from __future__ import annotations

import torch
from torch import Tensor

from gje_world.beliefs import Belief


@torch.no_grad()
def retrieval_ranks(belief: Belief, target: Tensor, others: Tensor) -> Tensor:
    """Rank `[N]`, from 1, of each row's own target by its belief's density, among the targets of all rows and
    what else the row holds.

    Arguments:
        belief: of batch shape `[N]`; of a cloud of particles its `gje_world.evaluation.foresight.likelihood`.
        target: `[N, D]`.
        others: of each row, `[M, N, D]`.
    """
    density = torch.stack([belief.log_prob(z.expand_as(target)) for z in target])  # [candidate, N]
    own = density.diagonal()
    return (density > own).sum(0) + (belief.log_prob(others) > own).sum(0) + 1


def mean_reciprocal_rank(ranks: Tensor) -> Tensor:
    """Mean of one over the rank, a scalar in (0, 1]."""
    return ranks.float().reciprocal().mean()
