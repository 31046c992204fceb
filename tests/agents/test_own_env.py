"""A user's own environment works as one of the suite's does, and its agent can be taken up elsewhere."""

import subprocess
import sys
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch

import agents
from agents import train_agent
from agents.config import TrainConfig
from agents.online import Online
from gje_world.training.means import NonFiniteError
from gje_world.training.metrics import read_metrics


class Dot(gymnasium.Env):
    """A bright dot on a line; the action moves it, the reward is how near it is to the middle."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}
    render_mode = "rgb_array"
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode="rgb_array", reward=None):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = float(self.np_random.uniform(-1, 1)), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 0.2 * action[0], -1, 1))
        self.steps += 1
        reward = 1 - abs(self.x) if self.reward is None else self.reward
        return np.array([self.x], np.float32), reward, False, self.steps >= 20, {}

    def render(self):
        frame = np.zeros((32, 32, 3), np.uint8)
        column = round((self.x + 1) / 2 * 27)
        frame[14:18, column : column + 4] = 255
        return frame


def tiny(run_dir, task):
    config = TrainConfig(task=task, steps=120, prefill=60, run_dir=str(run_dir), threads=1, log_every=10)
    config.batch_size, config.world.dim, config.world.hidden, config.agent.hidden = 8, 4, 16, 16
    config.world.encoder_width, config.env.image_size, config.env.action_repeat = 4, 16, 1
    config.planner.candidates, config.planner.policy_candidates, config.planner.elites = 16, 4, 4
    config.evaluation.episodes = config.planner.iterations = 2
    return config


def returns(run_dir):
    return [r["episode/return"] for r in read_metrics(run_dir / "metrics.jsonl") if r["kind"] == "episode"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    gymnasium.register("Dot-v0", entry_point=Dot, max_episode_steps=20)
    path = tmp_path_factory.mktemp("own") / "run"
    train_agent(tiny(path, "gym/Dot-v0"))
    return path


def test_a_registered_environment_trains_and_is_evaluated(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    assert {row["kind"] for row in rows} == {"train", "episode", "eval"}
    assert len([row for row in rows if row["kind"] == "episode"]) == 6
    assert (trained / "report.html").exists()


def test_so_does_one_handed_over_as_a_function(trained, tmp_path):
    train_agent(
        tiny(tmp_path / "run", "my-dot"), make=lambda: gymnasium.make("Dot-v0", render_mode="rgb_array")
    )
    values = [
        [r for r in read_metrics(p / "metrics.jsonl") if r["kind"] == "episode"]
        for p in (trained, tmp_path / "run")
    ]
    assert [r["episode/return"] for r in values[0]] == [r["episode/return"] for r in values[1]]


def test_the_agent_acts_the_same_in_another_process(trained):
    script = (
        "import sys, torch, agents\n"
        "agent = agents.load(sys.argv[1], device='cpu')\n"
        "torch.manual_seed(0)\n"
        "obs = torch.randint(0, 256, (9, 16, 16), dtype=torch.uint8)\n"
        "torch.set_num_threads(1)\n"
        "print(agent.act(obs).tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(trained)], capture_output=True, text=True, check=True
    )
    agent = agents.load(trained, device="cpu")
    torch.manual_seed(0)
    obs = torch.randint(0, 256, (9, 16, 16), dtype=torch.uint8)
    action = agent.act(obs)
    assert action.shape == (1,)
    assert action.abs().max() <= 1
    assert run.stdout.strip() == str(action.tolist())


def test_a_reward_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteError, match=r"reward of my-dot \(nan\) not finite near step 0; no check"):
        train_agent(tiny(tmp_path / "run", "my-dot"), make=lambda: Dot(reward=float("nan")))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", "my-dot")
    config.checkpoint_every = 20
    learn = Online.learn

    def explode(self):
        if self.step == 95:
            self.agent.reward.out.bias.data.fill_(float("nan"))
        learn(self)

    monkeypatch.setattr(Online, "learn", explode)
    with pytest.raises(NonFiniteError, match=r"loss/reward.*not finite near step 95; .*step_000000080"):
        train_agent(config, make=Dot)
