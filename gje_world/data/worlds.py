"""The generated worlds by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from gje_world.data.crossings import Coin, Junction, Occluder
from gje_world.data.sprites import DIGITS, SHAPES
from gje_world.data.world import PALE, SPREAD, WALL, Array, Generator, World, as_states, move, random_velocity


class Bounce(World):
    """A digit that flies about and bounces; each step its velocity gets a small random kick."""

    kinds = DIGITS

    def initial(self, generator: Generator, count: int) -> Array:
        place = generator.uniform(-WALL, WALL, (count, 2))
        velocity = random_velocity(generator, count)
        kind = generator.integers(len(self.kinds), size=count)
        return as_states(place, velocity, np.full(count, -1), kind)

    def step(self, states: Array, generator: Generator) -> Array:
        after = states.copy()
        after[:, 2:4] += generator.normal(0, SPREAD, (len(states), 2))
        return move(after)


class Noise(Bounce):
    """The same with a shape, before a background of blocks drawn anew for each frame: it tells nothing."""

    kinds = SHAPES
    BLOCKS = 8

    def background(self, count: int, generator: Generator) -> Array:
        blocks = generator.uniform(0, 0.6 * PALE, (count, self.BLOCKS, self.BLOCKS, 3)).astype(np.float32)
        side = -(-self.size // self.BLOCKS)
        return blocks.repeat(side, 1).repeat(side, 2)[:, : self.size, : self.size]


def _turns(*degrees: float) -> tuple[float, ...]:
    return tuple(math.radians(angle) for angle in degrees)


EIGHT = _turns(*range(0, 360, 45))
WORLDS: dict[str, Callable[[int], World]] = {
    "bounce": Bounce,
    "junction_1": partial(Junction, turns=_turns(0), probabilities=(1.0,)),
    "junction_2": partial(Junction, turns=_turns(-60, 60), probabilities=(0.5, 0.5)),
    "junction_3": partial(Junction, turns=_turns(-75, 0, 75), probabilities=(1 / 3, 1 / 3, 1 / 3)),
    "junction_8": partial(Junction, turns=EIGHT, probabilities=(1 / 8,) * 8),
    "junction_2_uneven": partial(Junction, turns=_turns(-60, 60), probabilities=(0.8, 0.2)),
    "junction_3_uneven": partial(Junction, turns=_turns(-75, 0, 75), probabilities=(0.6, 0.3, 0.1)),
    "junction_8_uneven": partial(
        Junction, turns=EIGHT, probabilities=(0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05)
    ),
    "coin": Coin,
    "occluder": Occluder,
    "noise": Noise,
}
"""The worlds by name, each made with the size of its frames."""


def make_world(name: str, size: int = 64) -> World:
    """The world called `name`.

    Raises:
        ValueError: there is no such world, or the size is too small to draw in.
    """
    if name not in WORLDS:
        raise ValueError(f"world must be one of {', '.join(WORLDS)}; got {name!r}")
    if size < 32 or size % 16:
        raise ValueError(f"size must be a multiple of 16 of at least 32, got {size}")
    return WORLDS[name](size)
