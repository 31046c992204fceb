"""Every objective that fits the world model trains an agent in it."""

import dot
import numpy as np
import pytest
import torch

from agents.building import make_agent
from agents.config import TrainConfig, check
from agents.replay import Batch
from gje_world.beliefs import HEADS
from gje_world.command import configuration
from gje_world.objectives import OBJECTIVES

FITS = sorted(OBJECTIVES.keys() - {"vi_simsiam"})


def agent_for(*options):
    """A small agent with these overrides on the command line."""
    words = [f"{name}={value}" for name, value in (dot.OPTIONS | {"world.dim": 8}).items()]
    config = configuration("train", TrainConfig, *words, *options)
    check(config)
    torch.manual_seed(0)
    return make_agent(config, 1, 0.95)


def batch(horizon=3, count=16):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (count, 3 + horizon, 3, 16, 16), dtype=torch.uint8, generator=generator)
    action = 2 * torch.rand(horizon, count, 1, generator=generator) - 1
    return Batch(frames, action, torch.rand(horizon, count), torch.zeros(horizon, count))


@pytest.mark.parametrize("objective", FITS)
@pytest.mark.parametrize("target", ["online", "stop_gradient", "momentum"])
def test_an_update_moves_everything_that_learns(objective, target):
    agent = agent_for(f"objective={objective}", f"objective.target={target}")
    agent.terminates = True
    before = {name: value.clone() for name, value in agent.named_parameters() if value.requires_grad}
    for _ in range(2):
        metrics = agent.update(batch(), gauges=True)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    parts = {".".join(name.split(".")[:2]) for name in before}
    assert parts >= {"world.encoder", "world.dynamics", "world.head", "critics.net", "policy.out"}
    for part in parts:
        own = {name: p for name, p in agent.named_parameters() if f"{name}.".startswith(f"{part}.")}
        moved = [not torch.equal(p, before[name]) for name, p in own.items() if name in before]
        assert any(moved), part
    if objective == "gmje":
        assert not torch.equal(agent.objective.centres, before["objective.centres"])


def test_a_momentum_target_follows_the_encoder_slowly():
    agent = agent_for("objective.target=momentum", "objective.momentum=0.9")
    agent.update(batch(), gauges=False)  # begins as a copy
    copy = [p.clone() for p in agent.target_encoder.module.parameters()]
    now = [p.detach().clone() for p in agent.world.encoder.parameters()]
    agent.update(batch(), gauges=False)
    for target, before, online in zip(agent.target_encoder.module.parameters(), copy, now, strict=True):
        torch.testing.assert_close(target, 0.9 * before + 0.1 * online)
        assert target.grad is None


def test_gradients_reach_the_encoder_through_online_targets_alone():
    """Of two agents alike in all else."""
    norms = {}
    for target in ("online", "stop_gradient"):
        agent = agent_for(f"objective.target={target}", "objective.marginal=none")
        obs = torch.randint(256, (2, 16, 9, 16, 16), dtype=torch.uint8)
        z = agent.world.embed(obs.flatten(0, 1)).unflatten(0, (2, 16))
        agent.objective.predict(
            agent.world.believe(z[0].detach(), torch.zeros(16, 1)), z[1]
        ).mean().backward()
        gradients = [p.grad for p in agent.world.encoder.parameters() if p.grad is not None]
        norms[target] = sum(float(gradient.norm()) for gradient in gradients)
    assert norms["online"] > 0 and norms["stop_gradient"] == 0


@pytest.mark.parametrize("belief", sorted(HEADS.keys() - {"point", "power_spherical"}))
def test_every_belief_can_be_planned_with_where_the_policy_proposes_nothing(belief):
    agent = agent_for(f"belief={belief}", "planner.policy_candidates=0")
    agent.reset()
    action = agent.act(torch.randint(256, (9, 16, 16), dtype=torch.uint8))
    assert action.shape == (1,) and action.isfinite().all()
