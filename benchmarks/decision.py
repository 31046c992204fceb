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
from measure import medians, parser, write_csv
from torch import Tensor

from agents.agent import Agent, discount_for
from agents.building import make_agent
from agents.config import TrainConfig
from agents.heads import Critics
from gje_world.training.devices import Precision, keep_freed_memory, set_threads

ACTION_DIM = 1  # cartpole's
EPISODE_STEPS = 125
WARM_UP = 3  # decisions


def critics_one_by_one(critics: Critics, z: Tensor, action: Tensor) -> Tensor:
    """What `critics` tell, logits `[E, ..., bins]`, each by matrix products of its own."""
    net, found = critics.net, []
    for member in range(net.members):
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
        values = self.two_hot.decode(critics_one_by_one(self.critics, z, last))
        return total + weight * values.mean(0)


def fast_decision(decisions: int, threads: int | None) -> float:
    """Seconds of a decision as `gje-train` makes it on this CPU."""
    keep_freed_memory()
    set_threads(threads)
    return _seconds(_agent(Precision.auto), decisions)


def plain_decision(decisions: int, threads: int | None) -> float:
    """Seconds of the same decision written plainly."""
    set_threads(threads)
    with patch("agents.building.Agent", PlainAgent):
        return _seconds(_agent(Precision.float32), decisions)


def _agent(precision: Precision) -> Agent:
    torch.manual_seed(0)
    return make_agent(TrainConfig(device="cpu", precision=precision), ACTION_DIM, discount_for(EPISODE_STEPS))


def _seconds(agent: Agent, decisions: int) -> float:
    side, stack = TrainConfig().env.image_size, TrainConfig().env.frame_stack
    obs = torch.randint(0, 256, (WARM_UP + decisions, 1, 3 * stack, side, side), dtype=torch.uint8)
    for seen in obs[:WARM_UP]:
        agent.decide(seen, explore=True)
    start = time.perf_counter()
    for seen in obs[WARM_UP:]:
        agent.decide(seen, explore=True)
    return (time.perf_counter() - start) / decisions


def main() -> None:
    """Measure, print a table, and write it to the CSV file if one is named."""
    options = parser(__doc__)
    options.add_argument("--decisions", type=int, default=100, help="timed decisions a round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()

    kinds = {"fast": fast_decision, "plain": plain_decision}
    found = medians(kinds, arguments.decisions, arguments.threads, rounds=arguments.rounds)
    ratio, threads = found["plain"] / found["fast"], set_threads(arguments.threads)
    print(f"{'plain':>8}{'fast':>8}{'ratio':>8}   seconds a decision, {threads} threads")
    print(f"{found['plain']:>8.3f}{found['fast']:>8.3f}{ratio:>7.1f}×")
    if arguments.csv is not None:
        row: dict[str, object] = {f"{kind}_seconds": f"{found[kind]:.4f}" for kind in ("plain", "fast")}
        write_csv(arguments.csv, [row | {"ratio": f"{ratio:.2f}", "threads": threads}])


if __name__ == "__main__":
    main()
