"""What the agent lives through: its environment, the episode it is in, and the replay that remembers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.config import TrainConfig
from agents.replay import Replay

logger = logging.getLogger(__name__)

EPISODE_SEEDS = 1_000_000  # training episodes of one seed; those of evaluation lie beyond them
CHECKPOINTS_BACK = 3  # as many are kept; a damaged newest one makes a run go back further


class ReplaySize(NamedTuple):
    """How large the replay of a run is."""

    capacity: int  # slots
    slack: int  # slots
    frame_shape: tuple[int, int, int]  # (C, H, W)
    action_dim: int


def replay_size(config: TrainConfig, env: gymnasium.Env) -> ReplaySize:
    """The replay that a run of `config` in `env` keeps."""
    repeat: int = env.get_wrapper_attr("action_repeat")
    episode_steps: int | None = env.get_wrapper_attr("max_episode_steps")
    steps = config.steps // repeat + 1
    # an episode of L agent steps takes L + 1 slots; one that a task ends early can be as short as a step
    capacity = config.replay_capacity or steps + steps // (episode_steps or 1) + 2
    slack = 2 * (CHECKPOINTS_BACK * config.checkpoint_every // repeat + 1)
    slack = max(0, min(slack, 2 * steps + 2 - capacity))  # no run writes more
    assert env.action_space.shape is not None
    side = config.env.image_size
    return ReplaySize(capacity, slack, (3, side, side), env.action_space.shape[0])


class Experience:
    """An environment and the replay of what happens in it.

    The state of the environment is in no checkpoint: each episode has its own seed, and `relive` brings the
    environment back to the middle of one from that seed and the actions taken.

    Arguments:
        env: where the agent learns.
        replay: remembers it.
        seed: of the run; its episodes have seeds of their own.
    """

    def __init__(self, env: gymnasium.Env, replay: Replay, seed: int):
        self.env, self.replay, self.seed = env, replay, seed
        self.obs: np.ndarray | None = None  # uint8 [K*C, H, W]; None between episodes
        self.terminated = False  # whether an episode of this run has ended in a terminal state
        self.total = 0.0  # reward of the episode so far, or of the last one
        self.actions: list[Tensor] = []  # of that episode
        self.uncertainty: list[float] = []  # one for each planned action

    def episode_seed(self, index: int) -> int:
        """Seed of this run's episode `index`."""
        return self.seed * EPISODE_SEEDS + index

    def begin(self) -> np.ndarray:
        """Begin an episode; its first observation."""
        self.obs, _ = self.env.reset(seed=self.episode_seed(self.replay.episode + 1))
        self.replay.start(self.obs[-3:])
        self.total, self.actions, self.uncertainty = 0.0, [], []
        return self.obs

    def act(self, action: np.ndarray, uncertainty: float | None) -> float:
        """Take `action [A]`, remember what came of it, and return the reward.

        Arguments:
            uncertainty: predicted for a planned action; None for a random one.
        """
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self.actions.append(torch.from_numpy(action))
        if uncertainty is not None:
            self.uncertainty.append(uncertainty)
        self.replay.add(obs[-3:], action, float(reward), terminated)
        self.total += float(reward)
        self.terminated |= terminated
        self.obs = None if terminated or truncated else obs
        return float(reward)

    def row(self) -> dict[str, Any]:
        """The metrics of the episode that has just ended."""
        row = {
            "episode/return": self.total,
            "episode/length": self.replay.count - self.replay.first - 1,
            "episode/index": self.replay.episode,
        }
        if self.uncertainty:
            row["planner/uncertainty"] = float(np.mean(self.uncertainty))
        return row

    def state(self) -> dict[str, Any]:
        """The episode, for a checkpoint; the replay's position is its own."""
        return {
            "in_episode": self.obs is not None,
            "episode_return": self.total,
            "episode_actions": self.actions,
            "episode_uncertainty": self.uncertainty,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken. The replay must be there already."""
        self.total = state["episode_return"]
        self.actions, self.uncertainty = list(state["episode_actions"]), list(state["episode_uncertainty"])
        self.obs = self._relive() if state["in_episode"] else None

    def _relive(self) -> np.ndarray | None:
        """Live the episode again up to its last action; None where it does not come out the same."""
        obs, _ = self.env.reset(seed=self.episode_seed(self.replay.episode))
        ended = False
        for action in self.actions:
            if ended:
                break
            obs, _, terminated, truncated, _ = self.env.step(action.numpy())
            ended = terminated or truncated
        if not ended and np.array_equal(obs[-3:], self.replay.newest_frame()):
            return obs
        logger.warning("the environment does not repeat an episode from its seed; a new episode begins")
        return None
