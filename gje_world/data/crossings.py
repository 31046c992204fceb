"""Worlds in which chance decides at one moment only: a junction, a coin flip, an occluder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gje_world.data.world import (
    PALE,
    SPREAD,
    WALL,
    Array,
    Branches,
    Generator,
    World,
    as_states,
    move,
    random_velocity,
)

LEAD = (4, 6)  # steps before a crossing at which an episode begins


class Crossing(World):
    """A sprite flies to the middle from any side; there, and only there, chance decides what follows.

    Nothing before the crossing tells what will be drawn: the draw is made in the step that leaves it.
    """

    latest_decision = LEAD[1]
    probabilities: tuple[float, ...] = (1.0,)

    def initial(self, generator: Generator, count: int) -> Array:
        velocity = random_velocity(generator, count)
        countdown = generator.integers(LEAD[0], LEAD[1] + 1, count)
        kind = generator.integers(len(self.kinds), size=count)
        return as_states(-countdown[:, None] * velocity, velocity, countdown, kind)

    def step(self, states: Array, generator: Generator) -> Array:
        after = states.copy()
        crossing = np.flatnonzero(self._of(states, "countdown") == 0)
        if len(crossing):
            way = generator.choice(len(self.probabilities), len(crossing), p=self.probabilities)
            taken = self.take(after[crossing], way)
            taken[:, 2:4] += generator.normal(0, SPREAD, (len(crossing), 2))
            after[crossing] = taken
        return self._go_on(after)

    def take(self, states: Array, way: npt.NDArray) -> Array:
        """States `[N, S]` at the crossing once they have taken the ways `[N]`."""
        raise NotImplementedError

    def branches(self, states: Array, horizon: int) -> Branches | None:
        path = []
        for way in range(len(self.probabilities)):
            now = self.take(states.copy(), np.full(len(states), way))
            steps = []
            for _ in range(horizon):
                now = self._go_on(now)
                steps.append(self.readable(now))
            path.append(np.stack(steps))
        return Branches(np.stack(path, 2), np.asarray(self.probabilities, np.float32))

    def decision(self, states: Array) -> npt.NDArray[np.int64]:
        return (self._of(states, "countdown") == 0).argmax(1)

    def background(self, count: int, generator: Generator) -> Array:
        canvas = super().background(count, generator)
        middle = slice(self.size // 2 - self.size // 32, self.size // 2 + self.size // 32)
        canvas[:, middle, middle] = 0.35 * PALE  # a mark where the crossing is
        return canvas

    def _go_on(self, states: Array) -> Array:
        after = move(states)
        after[:, 4] = np.maximum(after[:, 4] - 1, -1)
        return after


class Junction(Crossing):
    """At the crossing the sprite turns by one of `turns` (radians), with those `probabilities`."""

    def __init__(self, size: int, turns: tuple[float, ...], probabilities: tuple[float, ...]):
        super().__init__(size)
        self.turns, self.probabilities = turns, probabilities

    def take(self, states: Array, way: npt.NDArray) -> Array:
        angle = np.asarray(self.turns, np.float32)[way]
        cos, sin = np.cos(angle), np.sin(angle)
        vx, vy = states[:, 2].copy(), states[:, 3].copy()
        states[:, 2], states[:, 3] = cos * vx - sin * vy, sin * vx + cos * vy
        return states


class Coin(Crossing):
    """At the crossing a coin is flipped: the sprite, pale before, turns orange or blue, and flies on."""

    state_names = (*World.state_names, "hue")
    scored = ("x", "y", "hue")
    probabilities = (0.5, 0.5)

    def initial(self, generator: Generator, count: int) -> Array:
        return np.concatenate([super().initial(generator, count), np.zeros((count, 1), np.float32)], 1)

    def take(self, states: Array, way: npt.NDArray) -> Array:
        states[:, -1] = 2 * way - 1
        return states

    def colour(self, states: Array) -> Array:
        palette = np.array([[60, 120, 230], [PALE] * 3, [240, 130, 40]], np.float32)
        return palette[np.rint(self._of(states, "hue")).astype(int) + 1]


class Occluder(Crossing):
    """The sprite flies sideways behind a bar, and comes out with another speed, uniform in `NEW_SPEED`."""

    NEW_SPEED = (0.06, 0.16)
    HALF_WIDTH = 0.24  # of the bar: wider than the sprite, which is hidden when the speed is drawn

    def initial(self, generator: Generator, count: int) -> Array:
        states = super().initial(generator, count)
        sign = generator.choice([-1.0, 1.0], count)
        states[:, 2], states[:, 3] = sign * np.hypot(states[:, 2], states[:, 3]), 0
        states[:, 0] = -states[:, 4] * states[:, 2]
        states[:, 1] = generator.uniform(-WALL, WALL, count)
        return states

    def step(self, states: Array, generator: Generator) -> Array:
        after = states.copy()
        crossing = np.flatnonzero(self._of(states, "countdown") == 0)
        speed = generator.uniform(*self.NEW_SPEED, len(crossing))
        after[crossing, 2] = np.sign(after[crossing, 2]) * speed
        return self._go_on(after)

    def branches(self, states: Array, horizon: int) -> Branches | None:
        return None

    def foreground(self, canvas: Array) -> Array:
        edge = round(self.size * (1 - self.HALF_WIDTH) / 2)
        canvas[:, :, edge : self.size - edge] = 0.45 * PALE
        return canvas
