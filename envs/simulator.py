"""A task of the DM Control suite that can be put into any of its states and drawn there."""

from typing import Any, cast

import numpy as np

from envs.making import make
from envs.wrappers import normalise_action


class Simulator:
    """One task; actions are in [-1, 1], each held for the task's action repeat. No episode ends.

    Args:
        id: `dmc/<domain>-<task>`.
        image_size: height and width of what `frame` returns, in pixels.
    """

    def __init__(self, id: str, image_size: int) -> None:
        env = make(id, frame_stack=1, image_size=image_size)
        self._suite = cast(Any, env.unwrapped)  # envs.dmc.SuiteEnv, to be imported once its backend is chosen
        normalised = normalise_action(self._suite)
        self._to_bounds = normalised.func
        self._repeat = env.get_wrapper_attr("action_repeat")
        assert normalised.action_space.shape is not None
        self.action_dim: int = normalised.action_space.shape[0]
        self.observation_names: tuple[str, ...] = self._suite.state_names
        self._observation = np.zeros(len(self.observation_names), np.float32)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._observation, _ = self._suite.reset(seed=seed)

    def state(self) -> np.ndarray:
        """All that the simulation goes on from, float64 [P]."""
        return self._suite.physics_state()

    def go_to(self, state: np.ndarray) -> None:
        """Go on from a `state` [P]."""
        self._observation = self._suite.go_to(state)

    def step(self, action: np.ndarray) -> None:
        """Hold an action, float32 [A]."""
        self._observation = self._suite.advance(self._to_bounds(action), self._repeat)

    def observation(self) -> np.ndarray:
        """The task's own observation, float32 [S], named by `observation_names`."""
        return self._observation

    def frame(self) -> np.ndarray:
        """The state drawn, uint8 [3, H, W]."""
        return np.ascontiguousarray(self._suite.render().transpose(2, 0, 1))
