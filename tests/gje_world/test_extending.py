"""What docs/extending.md shows: a belief and an objective of one's own, registered and used as any other."""

import re
from pathlib import Path

import pytest
import torch

from agents.config import check
from gje_world import WorldModel, WorldModelConfig
from gje_world.beliefs import HEADS
from gje_world.objectives import OBJECTIVES, make_objective
from gje_world.propagation import propagate

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def shown(monkeypatch):
    """The names that the page's code defines, run but for the training."""
    for registry in (HEADS, OBJECTIVES):
        for name in ("laplace", "absolute_error"):
            monkeypatch.setitem(registry, name, None)  # so that it is taken back
            del registry[name]
    names: dict = {}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    monkeypatch.setattr("agents.train_agent", check)
    exec(code, names)
    return names


def test_a_belief_and_an_objective_of_ones_own_learn_in_a_world_model(shown):
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8), obs_shape=(3, 16, 16), action_dim=1, belief="laplace")
    z, action = torch.randn(64, 8), torch.randn(64, 1)
    belief = world.believe(z, action)
    assert belief.name == "laplace"
    value = belief.sample()
    expected = torch.distributions.Laplace(belief.mean, (belief.variance / 2).sqrt()).log_prob(value).sum(-1)
    torch.testing.assert_close(belief.log_prob(value), expected, rtol=1e-4, atol=1e-4)
    assert 0.4 < float(belief.coverage(value).mean()) < 0.6
    assert propagate(world, z, action.expand(3, 64, 1), particles=4)[-1].mean.shape == (64, 8)
    loss = make_objective("absolute_error", 8).predict(belief, value)
    torch.testing.assert_close(loss, (belief.mean - value).abs().mean(-1))
    loss.mean().backward()
    assert world.head.linear.weight.grad.abs().sum() > 0


def test_fusion_gives_the_numbers_that_the_page_tells(shown):
    both = shown["both"]
    torch.testing.assert_close(both.mean, torch.tensor([0.8, 0.8, 0.04]), atol=5e-3, rtol=0)
