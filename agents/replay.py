"""Replay of single uint8 frames in a memory map on disk, stacked when sampled."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gje_world.training.disk import require_disk


class ReplayError(RuntimeError):
    """The replay does not hold what is asked of it; the message says why, in one line."""


class Batch(NamedTuple):
    """Sequences of `T` transitions; time first."""

    frames: Tensor  # uint8 [B, K+T, C, H, W]: frames k-K+1 .. k+T, so that K of them make a stacked obs
    action: Tensor  # [T, B, A]
    reward: Tensor  # [T, B]
    terminated: Tensor  # [T, B], 1 where the episode ended in a terminal state

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, copied asynchronously where the device allows it."""
        if device.type == "cpu":
            return self
        return Batch(*(part.pin_memory().to(device, non_blocking=True) for part in self))


class Replay:
    """The last `capacity` frames of experience, one slot for each frame an agent saw.

    Slot `i` holds the newest frame of observation `i`, the action that led to it, and what that action
    earned; an episode of L steps takes L + 1 slots. Sampled sequences lie inside one episode.

    The map has `slack` slots beyond the capacity, which are never sampled: a run that is killed and goes
    back to a checkpoint no more than `slack` slots old finds all that was sampled then still in place.

    Arguments:
        folder: where the maps live; existing ones are reopened, and grow if the capacity has grown.
        capacity, slack: in slots.
        frame_shape: `(C, H, W)` of a single frame.
        action_dim: `A`.
        frame_stack: `K`, frames stacked to one observation.

    Raises:
        DiskSpaceError: the disk has not enough room.
    """

    def __init__(
        self,
        folder: Path,
        capacity: int,
        slack: int,
        frame_shape: tuple[int, int, int],
        action_dim: int,
        frame_stack: int,
    ):
        self.folder, self.capacity, self.frame_stack = folder, capacity, frame_stack
        self.slots = capacity + slack
        self.count = 0  # slots ever written
        self.episode = -1  # index of the episode being written
        self.first = 0  # count at which it began
        folder.mkdir(parents=True, exist_ok=True)
        maps = {
            folder / f"{name}.bin": (dtype, (self.slots, *shape))
            for name, (dtype, shape) in _fields(frame_shape, action_dim).items()
        }
        self.bytes = self.disk_bytes(self.slots, frame_shape, action_dim)
        self.require_room(folder, self.slots, frame_shape, action_dim)
        self.maps = {path.stem: _open_map(path, dtype, shape) for path, (dtype, shape) in maps.items()}

    @staticmethod
    def disk_bytes(slots: int, frame_shape: tuple[int, int, int], action_dim: int) -> int:
        """Bytes on disk that `slots` slots take."""
        fields = _fields(frame_shape, action_dim).values()
        return slots * sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in fields)

    @classmethod
    def require_room(
        cls, folder: Path, slots: int, frame_shape: tuple[int, int, int], action_dim: int
    ) -> None:
        """Checks that the disk has room for what `slots` slots in `folder` need beyond what is there.

        Raises:
            DiskSpaceError: it has not.
        """
        present = sum(path.stat().st_size for path in folder.glob("*.bin"))
        missing = max(0, cls.disk_bytes(slots, frame_shape, action_dim) - present)
        require_disk(folder, missing, "the replay")

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def start(self, frame: np.ndarray) -> None:
        """Begin an episode with its first `frame`, uint8 `[C, H, W]`."""
        self.episode += 1
        self.first = self.count
        self._write(frame, np.zeros(self.maps["action"].shape[1:], np.float32), 0.0, False)

    def add(self, frame: np.ndarray, action: np.ndarray, reward: float, terminated: bool) -> None:
        """Append the `frame` that `action` led to, with the `reward` it earned."""
        self._write(frame, action, reward, terminated)

    def _write(self, frame: np.ndarray, action: np.ndarray, reward: float, terminated: bool) -> None:
        slot = self.count % self.slots
        for name, value in zip(
            self.maps, (frame, action, reward, terminated, self.episode + 1, self.first), strict=True
        ):
            self.maps[name][slot] = value
        self.count += 1

    def sample(self, generator: np.random.Generator, batch_size: int, horizon: int) -> Batch:
        """`batch_size` sequences of `horizon` transitions, uniform over all that lie in one episode.

        Raises:
            ReplayError: no stored episode is as long as `horizon`.
        """
        low, high = self._oldest(), self.count - horizon
        episode = self.maps["episode"]
        starts = np.empty(0, np.int64)
        for _ in range(100):
            drawn = generator.integers(low, high, batch_size) if high > low else np.empty(0, np.int64)
            inside = episode[drawn % self.slots] == episode[(drawn + horizon) % self.slots]
            starts = np.concatenate([starts, drawn[inside]])
            if len(starts) >= batch_size:
                return self.gather(starts[:batch_size], horizon)
        places = np.arange(low, max(low, high))  # few there are, if any: found one by one
        starts = places[episode[places % self.slots] == episode[(places + horizon) % self.slots]]
        if len(starts):
            return self.gather(generator.choice(starts, batch_size), horizon)
        raise ReplayError(
            f"the replay holds no episode of {horizon} steps ({len(self)} slots filled); "
            "lower agent.horizon, or raise prefill"
        )

    def _oldest(self) -> int:
        """First slot whose stacked observation is whole; its older frames may lie in the slots before it."""
        if self.count <= self.capacity:
            return 0
        return self.count - self.capacity + self.frame_stack - 1

    def gather(self, starts: np.ndarray, horizon: int) -> Batch:
        """The sequences of `horizon` transitions that begin at `starts [B]`, each to lie in one episode."""
        first = self.maps["first"][starts % self.slots]
        window = starts[:, None] + np.arange(1 - self.frame_stack, horizon + 1)
        # before an episode's first frame stands that frame again, as in a freshly reset observation
        frames = self.maps["frame"][np.maximum(window, first[:, None]) % self.slots]
        after = (starts[None, :] + np.arange(1, horizon + 1)[:, None]) % self.slots
        return Batch(
            torch.from_numpy(frames),
            torch.from_numpy(self.maps["action"][after]),
            torch.from_numpy(self.maps["reward"][after]),
            torch.from_numpy(self.maps["terminated"][after].astype(np.float32)),
        )

    def newest_episode(self, most: int) -> Batch:
        """The last steps, `most` at most, of the episode that was written last, as one sequence.

        Raises:
            ReplayError: none of its steps is there.
        """
        start = max(self.first, self._oldest(), self.count - 1 - most)
        if (steps := self.count - 1 - start) < 1:
            raise ReplayError("the newest episode in the replay has no step yet")
        return self.gather(np.array([start]), steps)

    def newest_frame(self) -> np.ndarray:
        """The frame written last, uint8 `[C, H, W]`."""
        return np.array(self.maps["frame"][(self.count - 1) % self.slots])

    def recent_frames(self, most: int) -> Tensor:
        """Up to `most` stacked observations `[N, K*C, H, W]`, spread evenly over what is stored."""
        low = self._oldest()
        starts = np.unique(np.linspace(low, self.count - 1, min(most, self.count - low)).astype(np.int64))
        return self.gather(starts, 0).frames.flatten(1, 2)

    def flush(self) -> None:
        """Write what the maps hold to the disk."""
        for array in self.maps.values():
            array.flush()

    def state(self) -> dict[str, int]:
        """Position, for a checkpoint."""
        return {"count": self.count, "episode": self.episode, "first": self.first, "slots": self.slots}

    def load_state(self, state: dict[str, int]) -> None:
        """Go back to a position that `state` gave.

        Raises:
            ReplayError: the maps do not hold the frame that was the newest then, or are of another size and
                were filled before.
        """
        self.count, self.episode, self.first = state["count"], state["episode"], state["first"]
        if self.slots != state["slots"] and self.count > min(self.slots, state["slots"]):
            raise ReplayError(
                f"the replay in {self.folder} was filled with {state['slots']} slots and cannot have "
                f"{self.slots}; ask for the steps, replay_capacity and checkpoint_every it was made for"
            )
        newest = (self.count - 1) % self.slots
        there = self.maps["episode"][newest], self.maps["first"][newest]
        if self.count and there != (self.episode + 1, self.first):
            raise ReplayError(
                f"the replay in {self.folder} has lost what the checkpoint remembers; choose another run_dir"
            )


def _fields(frame_shape: tuple[int, int, int], action_dim: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Name, dtype and shape of what a slot holds."""
    return {
        "frame": (np.uint8, frame_shape),
        "action": (np.float32, (action_dim,)),
        "reward": (np.float32, ()),
        "terminated": (np.bool_, ()),
        "episode": (np.int32, ()),  # from 1 on; 0 in a slot never written
        "first": (np.int64, ()),  # count at which the slot's episode began
    }


def _open_map(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A map of `shape` on the file `path`, which keeps what it holds and grows where it is too short.

    The disk's blocks are taken now: a map that meets a full disk when written kills the process.
    """
    size = np.dtype(dtype).itemsize * math.prod(shape)
    path.touch()
    with path.open("r+b") as file:
        if path.stat().st_size < size:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except (AttributeError, OSError) as error:  # no such call here, or on this file system
                if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
