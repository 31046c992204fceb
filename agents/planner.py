"""Planning by sampling: MPPI and the cross-entropy method, scored over particles of belief."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from gje_world.options import option


class Method(Enum):
    mppi = "mppi"
    cem = "cem"


class Risk(Enum):
    mean = "mean"
    mean_std = "mean_std"
    cvar = "cvar"


@dataclass
class PlannerConfig:
    """How a decision is made."""

    method: Method = option(Method.mppi, "mppi weighs elites by their score; cem weighs them equally")
    horizon: int = option(3, "agent steps looked ahead before the critics take over")
    candidates: int = option(256, "action sequences sampled an iteration")
    policy_candidates: int = option(24, "of them, sequences proposed by the policy prior")
    elites: int = option(32, "best candidates that shape the next iteration")
    iterations: int = option(4, "rounds of sampling")
    particles: int = option(2, "futures sampled from the beliefs for each candidate")
    temperature: float = option(0.5, "MPPI: higher is greedier")
    min_std: float = option(0.05, "smallest standard deviation of sampled actions, in action units")
    max_std: float = option(2.0, "largest standard deviation of sampled actions")
    risk: Risk = option(Risk.mean, "one score of the particles' returns: mean, mean_std or cvar")
    kappa: float = option(0.0, "risk=mean_std: score = mean + kappa * std; negative avoids uncertain futures")
    cvar_share: float = option(0.25, "risk=cvar: mean of this share of the worst returns")


def score_returns(returns: Tensor, config: PlannerConfig) -> Tensor:
    """One score a candidate, `[...]`, from the returns of its particles `[P, ...]`."""
    if config.risk is Risk.mean:
        return returns.mean(0)
    if config.risk is Risk.mean_std:
        return returns.mean(0) + config.kappa * returns.std(0, correction=0)
    worst = max(1, math.ceil(config.cvar_share * len(returns) - 1e-9))  # 0.28 * 25 is a little above 7
    return returns.topk(worst, dim=0, largest=False).values.mean(0)


class Planner:
    """Improves a distribution over action sequences by sampling and scoring, for a batch of states at once.

    Keeps its last solution, shifted by one step, as the start of the next (warm start): `reset` at every
    episode's beginning.

    Arguments:
        config: budget and risk.
        action_dim: `A`.
        propose: embeddings `[B, D]` and a count `K` to action sequences `[H, B, K, A]` of the policy prior.
        evaluate: embeddings `[B, D]` and sequences `[H, B, N, A]` to particle returns `[P, B, N]`.
    """

    def __init__(
        self,
        config: PlannerConfig,
        action_dim: int,
        propose: Callable[[Tensor, int], Tensor],
        evaluate: Callable[[Tensor, Tensor], Tensor],
    ):
        self.config, self.action_dim = config, action_dim
        self.propose, self.evaluate = propose, evaluate
        self.warm_start: Tensor | None = None  # [H, B, A]

    def reset(self) -> None:
        """Forget the last plan."""
        self.warm_start = None

    @torch.no_grad()
    def plan(self, z: Tensor, explore: bool) -> Tensor:
        """The first action `[B, A]` of a good sequence from `z [B, D]`; sampled where `explore`.

        Raises:
            ValueError: the plan to go on from is of another number of states.
        """
        c = self.config
        size = (c.horizon, len(z), self.action_dim)
        mean = torch.zeros(size, device=z.device)
        if self.warm_start is not None:
            if self.warm_start.shape[1] != len(z):
                raise ValueError(
                    f"the last plan was for {self.warm_start.shape[1]} observations, these are {len(z)}; "
                    "call reset() where an episode begins"
                )
            mean[:-1] = self.warm_start[1:]
        std = torch.full_like(mean, c.max_std)
        proposals = self.propose(z, c.policy_candidates)  # [H, B, K, A]
        sampled = c.candidates - c.policy_candidates
        for _ in range(c.iterations):
            noise = torch.randn(*size[:2], sampled, self.action_dim, device=z.device)
            drawn = (mean.unsqueeze(2) + std.unsqueeze(2) * noise).clamp(-1, 1)
            actions = torch.cat([proposals, drawn], dim=2)  # [H, B, N, A]
            scores = score_returns(self.evaluate(z, actions), c)  # [B, N]
            best = scores.topk(c.elites, dim=1)  # [B, K]
            index = best.indices[None, :, :, None].expand(c.horizon, -1, -1, self.action_dim)
            elites = actions.gather(2, index)  # [H, B, K, A]
            weights = self.elite_weights(best.values)[None, :, :, None]
            mean = (weights * elites).sum(2)
            spread = (weights * (elites - mean.unsqueeze(2)).square()).sum(2)
            std = spread.sqrt().clamp(c.min_std, c.max_std)
        self.warm_start = mean
        if not explore:
            return mean[0]
        chosen = torch.multinomial(weights[0, :, :, 0], 1)  # [B, 1]
        first = elites[0].gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.action_dim)).squeeze(1)
        return (first + std[0] * torch.randn_like(first)).clamp(-1, 1)

    def elite_weights(self, scores: Tensor) -> Tensor:
        """Weights `[B, K]`, summing to 1, of elites with `scores [B, K]`, best first."""
        if self.config.method is Method.cem:
            return torch.full_like(scores, 1 / scores.shape[1])
        return (self.config.temperature * (scores - scores[:, :1])).softmax(1)
