"""Seconds of one decision of the default preset, against the same decision written plainly.

    python benchmarks/decision.py [--csv results/decision.csv]

Plain is: float32, every particle imagined from the start on its own, every critic of the ensemble evaluated
on its own. Each measurement runs in a process of its own, the two kinds in turn, and the median of the rounds
counts.
"""

from __future__ import annotations

import time
from unittest.mock import patch

import torch
import torch.nn.functional as F
from measure import fast_against_plain
from torch import Tensor
from update import default_agent

from agents.agent import Agent
from agents.config import TrainConfig
from agents.heads import Critics
from gje_world.training.devices import Precision, keep_freed_memory, set_threads

WARM_UP = 3  # decisions


def critics_one_by_one(critics: Critics, z: Tensor, action: Tensor, members: list[int]) -> Tensor:
    """What `members` of `critics` tell, logits `[E, ..., bins]`, each by matrix products of its own."""
    net, found = critics.net, []
    for member in members:
        x = torch.cat([z, action], -1)
        for i, layer in enumerate((net.first, net.second)):
            x = F.layer_norm(x @ layer.weight[member] + layer.bias[member], net.scales.shape[-1:])
            x = F.silu(x * net.scales[i, member] + net.shifts[i, member])
        found.append(x @ net.last.weight[member] + net.last.bias[member])
    return torch.stack(found)


class PlainAgent(Agent):
    """The same decisions by the same parameters as their author would first write them."""

    def evaluate_sequences(self, z: Tensor, actions: Tensor) -> Tensor:
        z = z.unsqueeze(1).expand(-1, actions.shape[2], -1)
        return torch.stack([self.one_future(z, actions) for _ in range(self.planner.config.particles)])

    def one_future(self, z: Tensor, actions: Tensor) -> Tensor:
        """Returns `[B, N]` of `actions [H, B, N, A]` from `z [B, N, D]`, along one sample of the beliefs."""
        total, weight = torch.zeros(z.shape[:-1]), 1.0
        for action in actions:
            total = total + weight * self.two_hot.decode(self.reward(z, action))
            weight = weight * self.survival(z, action)
            z = self.world.believe(z, action).rsample()
        last, _ = self.policy(z)
        values = self.two_hot.decode(critics_one_by_one(self.critics, z, last, self.critics.pair()))
        return total + weight * values.mean(0)


def fast_decision(decisions: int, threads: int | None) -> float:
    """Seconds of a decision as `gje-train` makes it on this CPU."""
    keep_freed_memory()
    set_threads(threads)
    return _seconds(default_agent(Precision.auto), decisions)


def plain_decision(decisions: int, threads: int | None) -> float:
    """Seconds of the same decision written plainly."""
    set_threads(threads)
    with patch("agents.building.Agent", PlainAgent):
        return _seconds(default_agent(Precision.float32), decisions)


def _seconds(agent: Agent, decisions: int) -> float:
    side, stack = TrainConfig().env.image_size, TrainConfig().env.frame_stack
    obs = torch.randint(0, 256, (WARM_UP + decisions, 1, 3 * stack, side, side), dtype=torch.uint8)
    for seen in obs[:WARM_UP]:
        agent.decide(seen, explore=True)
    start = time.perf_counter()
    for seen in obs[WARM_UP:]:
        agent.decide(seen, explore=True)
    return (time.perf_counter() - start) / decisions


if __name__ == "__main__":
    fast_against_plain(__doc__, fast_decision, plain_decision, timed="decision", count=100)
