"""A simulated task under a random policy whose actions are hidden, as a world whose law can be sampled."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gje_world.data.world import PAST, Array, Generator, World

State = npt.NDArray[np.float64]


class Simulator(Protocol):
    """What a simulated world is made of: a task that can be put into any of its states."""

    action_dim: int
    observation_names: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def state(self) -> State:
        """All that the simulation goes on from, `[P]`."""

    def go_to(self, state: State) -> None:
        """Go on from a `state` [P]."""

    def step(self, action: npt.NDArray[np.float32]) -> None:
        """Hold an action in [-1, 1] for one step."""

    def observation(self) -> npt.NDArray[np.float32]:
        """What is known of the state by name, `[O]`."""

    def frame(self) -> npt.NDArray[np.uint8]:
        """The state drawn, `[3, H, W]`."""


class Simulated(World):
    """Episodes of a simulator; each action is uniform and is not told.

    Its states are the simulator's, then what is observed. A future is sampled by going back to a state and
    drawing other actions from there.

    Arguments:
        simulator: draws frames of `size` pixels.
        scored: names among the simulator's observations.
    """

    episodes = 2_000

    def __init__(self, simulator: Simulator, size: int, scored: tuple[str, ...]):
        super().__init__(size)
        self.simulator = simulator
        simulator.reset(0)
        self.hidden = len(simulator.state())
        hidden = tuple(f"state[{index}]" for index in range(self.hidden))
        self.state_names = (*hidden, *simulator.observation_names)
        self.scored = scored

    def generate(
        self, generator: Generator, episodes: int, length: int
    ) -> tuple[npt.NDArray[np.uint8], Array]:
        frames = np.empty((episodes, length, *self.frame_shape), np.uint8)
        states = np.empty((episodes, length, len(self.state_names)), np.float32)
        for episode in range(episodes):
            self.simulator.reset(int(generator.integers(2**31)))
            for _ in range(PAST):  # away from where all episodes begin
                self.simulator.step(self._action(generator))
            for moment in range(length):
                if moment:
                    self.simulator.step(self._action(generator))
                frames[episode, moment], states[episode, moment] = self.simulator.frame(), self._state()
        return frames, states

    def sample_futures(self, states: Array, horizon: int, count: int, generator: Generator) -> Array:
        futures = np.empty((count, horizon, *states.shape), np.float32)
        for row, state in enumerate(states):
            for draw in range(count):
                self.simulator.go_to(state[: self.hidden].astype(np.float64))
                for moment in range(horizon):
                    self.simulator.step(self._action(generator))
                    futures[draw, moment, row] = self._state()
        return futures

    def draw(self, states: Array, generator: Generator) -> npt.NDArray[np.uint8]:
        flat = states.reshape(-1, states.shape[-1])
        frames = np.empty((len(flat), *self.frame_shape), np.uint8)
        for row, state in enumerate(flat):
            self.simulator.go_to(state[: self.hidden].astype(np.float64))
            frames[row] = self.simulator.frame()
        return frames.reshape(*states.shape[:-1], *self.frame_shape)

    def _state(self) -> Array:
        return np.concatenate([self.simulator.state(), self.simulator.observation()]).astype(np.float32)

    def _action(self, generator: Generator) -> npt.NDArray[np.float32]:
        return generator.uniform(-1, 1, self.simulator.action_dim).astype(np.float32)
