"""What a generated world is: a law of motion that can be sampled, and how it looks.

A world is a Markov chain over a small state: the same step makes its episodes and samples its true futures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from gje_world.data.clip_writer import ClipWriter
from gje_world.data.clips import Clips
from gje_world.data.sprites import SHAPES, paint

Array = npt.NDArray[np.float32]
Generator = np.random.Generator

RADIUS = 0.2  # of a sprite; a frame reaches from -1 to 1
WALL = 1 - RADIUS  # a sprite's centre bounces here
SPEED = (0.10, 0.14)  # a step, at the beginning
SPREAD = 0.012  # standard deviation of a velocity's noise
PAST = 5  # index of the frame after which futures are asked for, where chance acts at every step
DARK, PALE = 26.0, 230.0
CHUNK = 1024  # frames drawn at once
BATCH = 256  # episodes made at once


class Branches(NamedTuple):
    """The ways a discrete law may go: where each leads, and how likely it is."""

    places: Array  # [H, B, K, V]: the scored variables at each step ahead, without noise
    probabilities: Array  # [K]


class World:
    """A law of motion, and how it looks.

    Arguments:
        size: height and width of a frame in pixels.
    """

    state_names: tuple[str, ...] = ("x", "y", "vx", "vy", "countdown", "kind")
    scored: tuple[str, ...] = ("x", "y")  # variables that futures are compared in
    kinds: ClassVar[tuple[str, ...]] = SHAPES
    contexts: ClassVar[int] = 2048  # after which the benchmark asks for futures
    episodes: ClassVar[int] = 200_000  # to learn from, where nothing else is asked
    latest_decision: ClassVar[int] = PAST  # the greatest index that `decision` gives

    def __init__(self, size: int = 64):
        self.size = size

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def generate(self, generator: Generator, episodes: int, length: int) -> tuple[npt.NDArray, Array]:
        """Episodes: uint8 frames `[E, T, 3, H, W]` and states `[E, T, S]`."""
        states = self.initial(generator, episodes)
        path = [states]
        for _ in range(length - 1):
            path.append(self.step(path[-1], generator))
        states = np.stack(path, 1)
        return self.draw(states, generator), states

    def sample_futures(self, states: Array, horizon: int, count: int, generator: Generator) -> Array:
        """Draws from the true law: states `[count, horizon, B, S]` that follow `states [B, S]`."""
        now = np.repeat(states[None], count, 0).reshape(-1, states.shape[-1])
        path = []
        for _ in range(horizon):
            now = self.step(now, generator)
            path.append(now.reshape(count, *states.shape))
        return np.stack(path, 1)

    def initial(self, generator: Generator, count: int) -> Array:
        """States `[count, S]` that episodes begin with."""
        raise NotImplementedError

    def step(self, states: Array, generator: Generator) -> Array:
        """One draw `[N, S]` of what follows `states [N, S]`."""
        raise NotImplementedError

    def branches(self, states: Array, horizon: int) -> Branches | None:
        """The ways that lie before `states [B, S]`, in the scored variables; None where they are not few."""
        return None

    def decision(self, states: Array) -> npt.NDArray[np.int64]:
        """Index `[E]` of the frame, in episodes `states [E, T, S]`, after which it is open what happens."""
        return np.full(len(states), PAST)

    def readable(self, states: Array) -> Array:
        """The scored variables `[..., V]` of `states [..., S]`."""
        return states[..., [self.state_names.index(name) for name in self.scored]]

    def draw(self, states: Array, generator: Generator) -> npt.NDArray[np.uint8]:
        """Frames uint8 `[..., 3, H, W]` of `states [..., S]`."""
        flat = states.reshape(-1, states.shape[-1])
        frames = np.empty((len(flat), *self.frame_shape), np.uint8)
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK]
            canvas = self.background(len(part), generator)
            kind = self._of(part, "kind")
            paint(canvas, kind, part[:, :2], self.colour(part), RADIUS, self.kinds)
            frames[start : start + CHUNK] = np.rint(self.foreground(canvas)).transpose(0, 3, 1, 2)
        return frames.reshape(*states.shape[:-1], *self.frame_shape)

    def background(self, count: int, generator: Generator) -> Array:
        """What lies behind the sprite, `[count, H, W, 3]` in grey levels."""
        return np.full((count, self.size, self.size, 3), DARK, np.float32)

    def foreground(self, canvas: Array) -> Array:
        """The canvas with what lies before the sprite."""
        return canvas

    def colour(self, states: Array) -> Array:
        """Of the sprite, `[N, 3]`."""
        return np.full((len(states), 3), PALE, np.float32)

    def _of(self, states: Array, name: str) -> Array:
        return states[..., self.state_names.index(name)]


def random_velocity(generator: Generator, count: int) -> Array:
    """Velocities `[count, 2]` of any direction."""
    angle, speed = generator.uniform(0, 2 * math.pi, count), generator.uniform(*SPEED, count)
    return (speed * np.stack([np.cos(angle), np.sin(angle)])).T


def as_states(place: npt.NDArray, velocity: npt.NDArray, countdown: npt.NDArray, kind: npt.NDArray) -> Array:
    """States `[N, 6]` of their parts."""
    return np.column_stack([place, velocity, countdown, kind]).astype(np.float32)


def move(states: Array) -> Array:
    """States a step on, bounced off the walls."""
    after = states.copy()
    after[:, :2] += after[:, 2:4]
    beyond = abs(after[:, :2]) > WALL
    after[:, :2] = np.where(beyond, np.sign(after[:, :2]) * 2 * WALL - after[:, :2], after[:, :2])
    after[:, 2:4] = np.where(beyond, -after[:, 2:4], after[:, 2:4])
    return after


def write_clips(world: World, path: Path | str, episodes: int, length: int, seed: int) -> Clips:
    """Episodes of `world` as clips on disk; a build that was stopped goes on, to the same clips.

    Arguments:
        path: the clips' folder.
        length: frames of an episode.
    """
    with ClipWriter(path, world.frame_shape, state_names=world.state_names) as clips:
        while clips.episodes < episodes:
            batch, done = divmod(clips.episodes, BATCH)
            frames, states = world.generate(np.random.default_rng([seed, batch]), BATCH, length)
            part = slice(done, min(BATCH, done + episodes - clips.episodes))
            clips.extend(frames[part], states=states[part])
    return clips
