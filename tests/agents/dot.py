"""A user's own environment, small enough for hundreds of steps a second."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np

from agents import TrainConfig


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


gymnasium.register("Dot-v0", entry_point=Dot, max_episode_steps=20)

OPTIONS = {
    "task": "gym/Dot-v0",
    "prefill": 60,
    "threads": 1,
    "log_every": 10,
    "batch_size": 8,
    "world.dim": 4,
    "world.hidden": 16,
    "world.encoder_width": 4,
    "agent.hidden": 16,
    "env.image_size": 16,
    "planner.candidates": 16,
    "planner.policy_candidates": 4,
    "planner.elites": 4,
    "planner.iterations": 2,
    "evaluation.episodes": 2,
}


def config(run_dir, **options) -> TrainConfig:
    """Options of a short run in that environment; dots in their names as double underscores."""
    config = TrainConfig(run_dir=str(run_dir), steps=120)
    for name, value in (OPTIONS | {k.replace("__", "."): v for k, v in options.items()}).items():
        *path, last = name.split(".")
        part = config
        for word in path:
            part = getattr(part, word)
        assert hasattr(part, last)
        setattr(part, last, value)
    return config
