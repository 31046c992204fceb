"""A user's own environment works as one of the suite's does, and its agent can be taken up elsewhere."""

import subprocess
import sys

import dot
import gymnasium
import pytest
import torch
from dot import Dot

import agents
from agents import train_agent
from agents.config import ConfigError
from agents.online import Online
from gje_world.training.means import NonFiniteError
from gje_world.training.metrics import read_metrics


def limited(**options):
    return gymnasium.wrappers.TimeLimit(Dot(**options), 20)


def returns(run_dir):
    return [r["episode/return"] for r in read_metrics(run_dir / "metrics.jsonl") if r["kind"] == "episode"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "run"
    train_agent(dot.config(path))
    return path


def test_a_registered_environment_trains_and_is_evaluated(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    assert {row["kind"] for row in rows} == {"train", "episode", "eval"}
    assert len([row for row in rows if row["kind"] == "episode"]) == 6
    assert (trained / "report.html").exists()


def test_so_does_one_handed_over_as_a_function(trained, tmp_path):
    config = dot.config(tmp_path / "run", task="my-dot")
    train_agent(config, make=lambda: gymnasium.make("Dot-v0", render_mode="rgb_array"))
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
        train_agent(dot.config(tmp_path / "run", task="my-dot"), make=lambda: limited(reward=float("nan")))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    config = dot.config(tmp_path / "run", task="my-dot")
    config.checkpoint_every = 20
    learn = Online.learn

    def explode(self):
        if self.step == 95:
            self.agent.reward.out.bias.data.fill_(float("nan"))
        learn(self)

    monkeypatch.setattr(Online, "learn", explode)
    with pytest.raises(NonFiniteError, match=r"loss/reward.*not finite near step 95; .*step_000000080"):
        train_agent(config, make=limited)


def test_an_environment_without_a_limit_or_not_made_anew_is_refused_before_any_work(tmp_path):
    config = dot.config(tmp_path / "run", task="my-dot")
    with pytest.raises(ConfigError, match=r"env\.time_limit must be set"):
        train_agent(config, make=Dot)
    with pytest.raises(ConfigError, match="task=dmc/cartpole-swingup names another environment"):
        train_agent(dot.config(tmp_path / "run", task="dmc/cartpole-swingup"), make=limited)
    one = limited()
    with pytest.raises(ConfigError, match="make must make a new environment each time"):
        train_agent(config, make=lambda: one)
    assert not (tmp_path / "run").exists()
