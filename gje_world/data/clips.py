"""Clips: episodes of uint8 frames with their actions and true states, in memory maps on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gje_world.training.atomic import replacing

VERSION = 1
INDEX = "index.json"


class ClipsError(RuntimeError):
    """The clips do not hold what is asked of them, or cannot take what is given; in one line."""


class ClipBatch(NamedTuple):
    """Windows of `T` frames, batch first."""

    frames: Tensor  # uint8 [B, T, C, H, W]
    actions: Tensor  # [B, T-1, A]: the one between each frame and the next; A may be 0
    states: Tensor  # [B, T, S]; S may be 0


class Clips:
    """Episodes on disk, written one after the other and read through memory maps.

    A folder holds the flat files `frames.bin` (uint8), `actions.bin` and `states.bin` (float32), one row a
    frame, and `index.json`, which says where the episodes lie. The index is replaced whole after the data is
    on the disk, so a build that was killed goes on after its last whole episode.

    `Clips.create` opens a folder for writing, `Clips.open` for reading.
    """

    def __init__(self, path: Path, index: dict, intervals: npt.NDArray[np.int64] | None = None):
        self.path = path
        self._index = index
        self.frame_shape: tuple[int, int, int] = tuple(index["frame_shape"])  # (C, H, W)
        self.action_dim: int = index["action_dim"]
        self.state_names: tuple[str, ...] = tuple(index["state_names"])
        self._intervals = intervals  # [E, 2] first row and the row after the last; None: all of the index's
        self._maps: dict[str, npt.NDArray] | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        frame_shape: tuple[int, int, int],
        action_dim: int = 0,
        state_names: Sequence[str] = (),
    ) -> Clips:
        """Clips in the folder `path`, to be appended to; those already there are kept.

        Arguments:
            frame_shape: `(C, H, W)` of a frame.
            action_dim: `A`, numbers in an action; 0 where there are none.
            state_names: of the `S` numbers of the true state; empty where it is not known.

        Raises:
            ClipsError: the folder holds clips of another kind.
        """
        path = Path(path)
        if (path / INDEX).exists():
            there = cls.open(path)
            asked = (tuple(frame_shape), action_dim, tuple(state_names))
            names = ("frame_shape", "action_dim", "state_names")
            for name, value in zip(names, asked, strict=True):
                if getattr(there, name) != value:
                    raise ClipsError(
                        f"{path} holds clips of {name}={getattr(there, name)}, not {value}; "
                        "choose another folder"
                    )
            return there
        path.mkdir(parents=True, exist_ok=True)
        index = {
            "version": VERSION,
            "frame_shape": list(frame_shape),
            "action_dim": action_dim,
            "state_names": list(state_names),
            "lengths": [],
            "sources": [],
            "skipped": {},
        }
        clips = cls(path, index)
        clips._write_index()
        return clips

    @classmethod
    def open(cls, path: Path | str) -> Clips:
        """The clips that stand in the folder `path`.

        Raises:
            ClipsError: there are none, or not in a form this version reads.
        """
        path = Path(path)
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            version = index["version"]
        except OSError as error:
            raise ClipsError(f"{path} holds no clips: there is no {INDEX} in it that can be read") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ClipsError(f"{path / INDEX} cannot be read: {error!r}") from error
        if version != VERSION:
            raise ClipsError(f"{path} holds clips of format {version}; this version reads {VERSION}")
        clips = cls(path, index)
        for name, (dtype, shape) in clips._fields().items():
            size = np.dtype(dtype).itemsize * math.prod(shape) * sum(index["lengths"])
            there = (path / f"{name}.bin").stat().st_size if (path / f"{name}.bin").exists() else 0
            if there < size:
                raise ClipsError(f"{path / name}.bin holds {there:,} bytes of {size:,}: make the clips anew")
        return clips

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.intervals)

    @property
    def intervals(self) -> npt.NDArray[np.int64]:
        """First row of each episode and the row after its last, `[E, 2]`."""
        if self._intervals is not None:
            return self._intervals
        ends = np.cumsum([0, *self._index["lengths"]], dtype=np.int64)
        return np.stack([ends[:-1], ends[1:]], 1)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of each episode, `[E]`."""
        return self.intervals[:, 1] - self.intervals[:, 0]

    @property
    def sources(self) -> list[str]:
        """What each episode was made from, as `append` was told."""
        whole = self._index["sources"]
        if self._intervals is None:
            return list(whole)
        starts = np.cumsum([0, *self._index["lengths"]])
        return [whole[i] for i in np.searchsorted(starts, self._intervals[:, 0], side="right") - 1]

    @property
    def skipped(self) -> dict[str, str]:
        """Sources that gave no episode, and why."""
        return dict(self._index["skipped"])

    def description(self) -> dict[str, Any]:
        """What tells these clips from others, for whoever splits them the same way again later."""
        index = json.dumps([self._index["lengths"], self._index["sources"]]).encode()
        return {
            "episodes": self.episodes,
            "frames": len(self),
            "frame_shape": list(self.frame_shape),
            "sha256": hashlib.sha256(index).hexdigest(),
        }

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.lengths.sum())

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray | None = None,
        states: npt.NDArray | None = None,
        source: str = "",
    ) -> None:
        """Write one episode: `frames [T, C, H, W]`, `actions [T-1, A]`, `states [T, S]`.

        Arguments:
            source: what it was made from, such as the name of a video file.

        Raises:
            ClipsError: a shape or type is not that of these clips.
        """
        self.extend(
            frames[None],
            None if actions is None else np.asarray(actions)[None],
            None if states is None else np.asarray(states)[None],
            source,
        )

    def extend(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray | None = None,
        states: npt.NDArray | None = None,
        source: str = "",
    ) -> None:
        """Write episodes of one length at once: `frames [E, T, C, H, W]`, and so on as in `append`."""
        if self._intervals is not None:
            raise ClipsError("a part of clips that were split can be read only")
        if frames.ndim != 5 or frames.dtype != np.uint8:
            raise ClipsError(
                f"frames must be uint8 [T, C, H, W], got {frames.dtype} {list(frames.shape[1:])}"
            )
        count, length = frames.shape[:2]
        named = f" of {source}" if source else ""
        if frames.shape[2:] != self.frame_shape:
            raise ClipsError(
                f"frames{named} are {list(frames.shape[2:])}, the others {list(self.frame_shape)}: "
                "clips must be of one size"
            )
        rows: dict[str, npt.NDArray] = {
            "frames": frames,
            "actions": self._rows("actions", actions, count, length, length - 1, self.action_dim),
            "states": self._rows("states", states, count, length, length, len(self.state_names)),
        }
        written = sum(self._index["lengths"])
        for name, (dtype, shape) in self._fields().items():
            size = np.dtype(dtype).itemsize * math.prod(shape)
            if size:
                _write_at(self.path / f"{name}.bin", written * size, rows[name])
        self._index["lengths"] += [length] * count
        self._index["sources"] += [source] * count
        self._write_index()
        self._maps = None

    def skip(self, source: str, reason: str) -> None:
        """Remember that `source` cannot be read, so that no later build tries it again."""
        self._index["skipped"][source] = reason
        self._write_index()

    def sample(self, generator: np.random.Generator, batch: int, length: int, stride: int = 1) -> ClipBatch:
        """`batch` windows of `length` frames, uniform over all that lie in one episode.

        Arguments:
            stride: rows from one frame of a window to its next. Where it is above 1, an action is the
                `stride` ones in between side by side, `[B, T-1, stride * A]`.

        Raises:
            ClipsError: there is no episode, or none that long.
        """
        span = (length - 1) * stride + 1
        places = np.maximum(self.lengths - span + 1, 0)
        ends = np.cumsum(places)
        if not places.any():
            longest = int(self.lengths.max(initial=0))
            have = f"the longest of {self.episodes} has {longest}" if self.episodes else "there is no clip"
            raise ClipsError(f"a window needs {span} frames (length {length}, stride {stride}); {have}")
        drawn = generator.integers(ends[-1], size=batch)
        episode = np.searchsorted(ends, drawn, side="right")
        starts = self.intervals[episode, 0] + drawn - (ends - places)[episode]
        return self._gather(starts, length, stride)

    def window(self, episode: int, start: int, length: int, stride: int = 1) -> ClipBatch:
        """The window that begins at frame `start` of an episode, as a batch of one.

        Raises:
            ClipsError: it does not lie in the episode.
        """
        first, end = self.intervals[episode]
        if start < 0 or first + start + (length - 1) * stride >= end:
            raise ClipsError(f"episode {episode} has {end - first} frames: no window of {length} at {start}")
        return self._gather(np.array([first + start]), length, stride)

    def split(self, held_out: float) -> tuple[Clips, Clips]:
        """The clips in two parts: the second has the share `held_out`, at least one.

        They come apart by what they were made from, so that no film lies on both sides; where that is one
        thing, by episode; a single episode is cut in two in time. The same clips always do so alike.

        Raises:
            ClipsError: there is no clip, or the share is not between 0 and 1.
        """
        if not 0 < held_out < 1:
            raise ClipsError(f"held_out={held_out} must be between 0 and 1")
        if not self.episodes:
            raise ClipsError(f"{self.path} holds no clip")
        if self.episodes == 1:
            first, end = self.intervals[0]
            cut = end - max(1, round(held_out * (end - first)))
            return self._part(np.array([[first, cut]])), self._part(np.array([[cut, end]]))
        sources = self.sources
        place = {name: index for index, name in enumerate(dict.fromkeys(sources))}
        groups = np.arange(self.episodes) if len(place) == 1 else np.array([place[s] for s in sources])
        there = int(groups.max()) + 1
        order = np.random.default_rng(0).permutation(there)
        count = min(max(1, round(held_out * there)), there - 1)
        held = np.isin(groups, order[:count])
        return self._part(self.intervals[~held]), self._part(self.intervals[held])

    def of_length(self, frames: int) -> Clips:
        """Those of at least so many frames."""
        return self._part(self.intervals[self.lengths >= frames])

    def _part(self, intervals: npt.NDArray[np.int64]) -> Clips:
        return Clips(self.path, self._index, intervals)

    def _gather(self, starts: npt.NDArray[np.int64], length: int, stride: int) -> ClipBatch:
        maps = self._opened()
        span = (length - 1) * stride + 1
        batch = len(starts)
        frames = np.empty((batch, length, *self.frame_shape), np.uint8)
        actions = np.empty((batch, length - 1, stride * self.action_dim), np.float32)
        states = np.empty((batch, length, len(self.state_names)), np.float32)
        for row, start in enumerate(starts):  # each a copy of memory that lies together
            frames[row] = maps["frames"][start : start + span : stride]
            states[row] = maps["states"][start : start + span : stride]
            actions[row] = maps["actions"][start : start + span - 1].reshape(actions.shape[1:])
        return ClipBatch(torch.from_numpy(frames), torch.from_numpy(actions), torch.from_numpy(states))

    def _opened(self) -> dict[str, npt.NDArray]:
        if self._maps is None:
            self._maps = {}
            count = sum(self._index["lengths"])
            for name, (dtype, shape) in self._fields().items():
                if count and math.prod(shape):
                    array = np.memmap(self.path / f"{name}.bin", dtype, "r", shape=(count, *shape))
                    self._maps[name] = array.view(np.ndarray)  # a memmap's own slicing is far slower
                else:
                    self._maps[name] = np.zeros((count, *shape), dtype)
        return self._maps

    def _fields(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        return {
            "frames": (np.uint8, self.frame_shape),
            "actions": (np.float32, (self.action_dim,)),
            "states": (np.float32, (len(self.state_names),)),
        }

    @staticmethod
    def _rows(
        name: str, given: npt.NDArray | None, count: int, length: int, steps: int, dim: int
    ) -> npt.NDArray[np.float32]:
        """What was given as float32 rows, one a frame: the row after an episode's last action is zero."""
        shape = (count, steps, dim)
        there = (count, steps, 0) if given is None else np.shape(given)
        if there != shape:
            raise ClipsError(
                f"{name} must be {list(shape[1:])} beside {length} frames, got {list(there[1:])}"
            )
        rows = np.zeros((count, length, dim), np.float32)
        if given is not None:
            rows[:, :steps] = given
        return rows

    def _write_index(self) -> None:
        with replacing(self.path / INDEX) as temporary:
            temporary.write_text(json.dumps(self._index) + "\n", encoding="utf-8")


def _write_at(path: Path, offset: int, rows: npt.NDArray) -> None:
    """Write `rows` at `offset`, in place of what a killed build left there, and put them on the disk."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(np.ascontiguousarray(rows).data)
        file.flush()
        os.fsync(file.fileno())


def clip_batches(
    clips: Clips, seed: int, batch: int, length: int, stride: int = 1
) -> Callable[[int], Iterator[ClipBatch]]:
    """Batches for training: `batches(start)` yields those of update `start`, then `start + 1`, and so on.

    A batch depends on the seed and its number alone, so training that is resumed needs no loader's state.
    """

    def batches(start: int) -> Iterator[ClipBatch]:
        update = start
        while True:
            yield clips.sample(np.random.default_rng([seed, update]), batch, length, stride)
            update += 1

    return batches
