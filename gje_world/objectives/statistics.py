"""Statistics of a batch, over all ranks where training is data-parallel.

Each rank holds its own share of the batch, all of one size. Gradients are averaged over ranks afterwards, as
`DistributedDataParallel` does: then `N` ranks of `B` give the loss and the gradients of one rank of `N * B`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor

RIDGE = 1e-4  # added to the variances of a batch: an embedding of standard deviation 0.01 counts as collapsed


def distributed() -> bool:
    """Whether other ranks hold parts of the batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of `x` over all ranks, with gradient to each."""
    return dist_functional.all_reduce(x) / dist.get_world_size() if distributed() else x


def gather(x: Tensor) -> Tensor:
    """`x [B, ...]` of all ranks in order, `[N * B, ...]`, with gradient to each."""
    if not distributed():
        return x
    whole = torch.cat(dist_functional.all_gather(x.contiguous()))
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient.contiguous())  # as gloo takes it to be
    return whole


def agree(x: Tensor) -> Tensor:
    """`x` as the first rank has it, for random numbers that all must share; no gradient."""
    if distributed():
        dist.broadcast(x, 0)
    return x


def own(x: Tensor) -> Tensor:
    """`x` as this rank has it: for statistics that the others do not wait to share, as an evaluation's."""
    return x


def moments(z: Tensor, over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and biased covariance `[D, D]` of `z [..., D]` over all leading dimensions and ranks."""
    z = z.flatten(0, -2)
    mean = over_ranks(z.mean(0))
    centred = z - mean
    return mean, over_ranks(centred.mT @ centred / z.shape[0])
