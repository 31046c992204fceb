"""Gaussian Mixture Joint Embeddings on a growing neural gas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gje_world.beliefs.gaussian import LOG_2PI
from gje_world.objectives.coupled import Coupled
from gje_world.objectives.objective import require
from gje_world.objectives.statistics import gather

# Fritzke's constants; rates are per sample
WINNER_RATE, NEIGHBOUR_RATE = 0.05, 0.0006
OLDEST = 88  # age that an edge outlives, in what a winner wins on average in an update
SPLIT_DECAY, ERROR_DECAY = 0.5, 0.995  # of errors: of those of a split, and of all in an update
GROW_EVERY = 20  # updates
COUNT_DECAY = 0.99  # of how often each node won, and of the noise around them, an update
SMALLEST_VARIANCE = 1e-2


class NeuralGasGMJE(Coupled):
    r"""Likelihood of the target under a mixture whose centres a growing neural gas finds (GMJE-GNG).

    The gas (Fritzke, 1995) lives among pairs :math:`[z_c; z_t]`: a graph of nodes that move towards the pairs
    they win, with edges between winners and runners-up that age and vanish; every so often a new node halves
    the way between the node of largest error and its worst neighbour, until there is no room. So the number
    of modes is found, not told. No gradient reaches the gas: it follows the embeddings.

    Nodes are the centres of a mixture (after arXiv 2603.26799) with weights by how often each won lately and
    one diagonal covariance, that of pairs around their winners:

    .. math:: L = -\frac1D \log p(z_t \mid z_c), \quad
        p(z_t \mid z_c) = \sum_k w_k(z_c)\, N(z_t; \mu_{t,k}, \sigma_t^2)

    A batch is one step: each node moves as far as its samples would have moved it one after the other.

    Arguments:
        nodes: most there may be, at least 2.
        common: options of every coupled objective.
    """

    name = "gmje_gng"
    centres: Tensor
    alive: Tensor
    age: Tensor
    error: Tensor
    count: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, dim: int, *, nodes: int = 32, **common: Any):
        super().__init__(dim, **common)
        require(nodes >= 2, "nodes", nodes, "at least 2")
        self.register_buffer("centres", torch.randn(nodes, 2 * dim))
        self.register_buffer("alive", torch.arange(nodes) < 2)  # Fritzke begins with two
        self.register_buffer("age", torch.full((nodes, nodes), torch.inf))  # infinite: no edge
        self.register_buffer("error", torch.zeros(nodes))
        self.register_buffer("count", torch.ones(nodes))
        self.register_buffer("variance", torch.ones(2 * dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def couple(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        pair = torch.cat([z_context, z_target], -1)
        if self.training:
            self.adapt(gather(pair.detach().flatten(0, -2)))
        weights = torch.where(self.alive, self.count.log(), -torch.inf).log_softmax(-1)
        variance = self.variance.clone()  # the next batch changes it, perhaps before this one's gradients
        surprise = (pair.unsqueeze(-2) - self.centres).square() / variance + variance.log()
        density = -0.5 * (surprise + LOG_2PI).unflatten(-1, (2, self.dim)).sum(-1)  # [..., K, 2]
        context, target = density.unbind(-1)
        weights = weights + context
        return (weights.logsumexp(-1) - (weights + target).logsumexp(-1)) / self.dim

    @torch.no_grad()
    def adapt(self, pair: Tensor) -> None:
        """One step of the gas on a batch `[N, 2D]`."""
        distance = torch.cdist(pair, self.centres).square().masked_fill(~self.alive, torch.inf)
        (nearest, _), (first, second) = (part.mT for part in distance.topk(2, largest=False))
        won = torch.zeros_like(distance).scatter_(1, first.unsqueeze(1), 1.0)  # [N, K]
        wins = won.sum(0)

        rate = 1 - COUNT_DECAY
        residual = (pair - self.centres[first]).square().mean(0)
        self.variance.lerp_(residual.clamp(min=SMALLEST_VARIANCE), rate)
        self.count.mul_(COUNT_DECAY).add_(wins, alpha=rate).clamp_(min=1e-3)
        self.error.add_(won.mT @ nearest)

        self._age_edges(first, second, wins)
        edges = self.age.isfinite().to(won.dtype)
        self._pull(pair, won, WINNER_RATE)
        self._pull(pair, won @ edges, NEIGHBOUR_RATE)
        self.alive &= self.age.isfinite().any(0)
        self._grow()
        self.error.mul_(ERROR_DECAY)
        self.updates += 1

    def _age_edges(self, first: Tensor, second: Tensor, wins: Tensor) -> None:
        """Edges of winners grow older by their wins; one between a winner and its runner-up is new."""
        self.age += wins + wins.unsqueeze(1)
        self.age[first, second] = 0.0
        self.age[second, first] = 0.0
        # at least one edge of a batch was renewed in it, so at least two nodes stay
        self.age.masked_fill_(self.age > OLDEST * wins.sum() / wins.count_nonzero(), torch.inf)

    def _pull(self, pair: Tensor, share: Tensor, rate: float) -> None:
        """Move each node towards the mean of the samples it has a `share [N, K]` in, as if in turn."""
        total = share.sum(0)
        mean = share.mT @ pair / total.clamp(min=1).unsqueeze(1)
        self.centres.lerp_(mean, (1 - (1 - rate) ** total).unsqueeze(1))

    def _grow(self) -> None:
        """Put a node between that of largest error and its worst neighbour, at its time, if there is room."""
        time = (self.updates % GROW_EVERY == GROW_EVERY - 1) & ~self.alive.all()
        # each an index of one element: one of none would have a GPU waited for
        worst = self.error.masked_fill(~self.alive, -torch.inf).argmax(0, keepdim=True)
        beside = self.error.masked_fill(~self.age[worst].isfinite().squeeze(0), -torch.inf).argmax(
            0, keepdim=True
        )
        new = self.alive.to(torch.uint8).argmin(0, keepdim=True)  # the first that is free

        def put(where: Tensor, value: Tensor | float, *index: Tensor) -> None:
            where[index] = torch.where(time, value, where[index])  # type: ignore[arg-type]

        put(self.error, self.error[worst] * SPLIT_DECAY, worst)
        put(self.error, self.error[beside] * SPLIT_DECAY, beside)
        put(self.error, self.error[worst], new)
        put(self.centres, (self.centres[worst] + self.centres[beside]) / 2, new)
        put(self.count, (self.count[worst] + self.count[beside]) / 2, new)
        for a, b, age in ((worst, beside, torch.inf), (worst, new, 0.0), (beside, new, 0.0)):
            put(self.age, age, a, b)
            put(self.age, age, b, a)
        put(self.alive, True, new)
