"""Clips: episodes of uint8 frames with their actions and true states, in memory maps on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gje_world.training.atomic import replacing
from gje_world.training.locks import lock

logger = logging.getLogger(__name__)

VERSION = 1
INDEX = "index.json"
INDEX_EVERY = 64  # episodes from one writing of the index to the next: it grows with all that were before,
INDEX_SECONDS = 10.0  # or so many seconds, if they come first


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
    frame, and `index.json`, which says where the episodes lie. The index is replaced whole, once in a while
    and at the end, after the data is on the disk: a build that was killed goes on after the last episode that
    it tells of.

    `Clips.create` opens a folder for writing, which no other process can do until it is closed; `Clips.open`
    opens it for reading.
    """

    def __init__(
        self,
        path: Path,
        index: dict,
        intervals: npt.NDArray[np.int64] | None = None,
        sources: list[str] | None = None,
        lock: int | None = None,
    ):
        self.path = path
        self._index = index
        self.frame_shape: tuple[int, int, int] = tuple(index["frame_shape"])  # (C, H, W)
        self.action_dim: int = index["action_dim"]
        self.state_names: tuple[str, ...] = tuple(index["state_names"])
        self._intervals = intervals  # [E, 2] first row and the row after the last; None: all of the index's
        self._sources = sources  # of a part, [E]
        self._lock = lock  # held by what may write
        self._rows_written = sum(index["lengths"])
        self._changes, self._indexed = 0, time.monotonic()  # since the index was last written, and when
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

        To be used in a `with` block, whose end puts all of them on the disk; while another process writes to
        the folder it is waited for. Of a folder that cannot be written the clips are open for reading only.

        Arguments:
            frame_shape: `(C, H, W)` of a frame.
            action_dim: `A`, numbers in an action; 0 where there are none.
            state_names: of the `S` numbers of the true state; empty where it is not known.

        Raises:
            ClipsError: the folder holds clips of another kind.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        held = None
        if os.access(path, os.W_OK):
            held = lock(
                path,
                lambda holder: logger.warning("%s is being written by process %s: waiting", path, holder),
            )
        try:
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
                there._lock = held
                return there
            index = {
                "version": VERSION,
                "frame_shape": list(frame_shape),
                "action_dim": action_dim,
                "state_names": list(state_names),
                "lengths": [],
                "sources": [],
                "skipped": {},
                "finished": [],
            }
            clips = cls(path, index, lock=held)
            clips._write_index()
            return clips
        except BaseException:
            if held is not None:
                os.close(held)
            raise

    def close(self) -> None:
        """Put all that was appended on the disk and let others write; what stands there can still be read."""
        if self._lock is None:
            return
        try:
            if self._changes:
                self._write_index()
        finally:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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
        return list(self._index["sources"] if self._sources is None else self._sources)

    @property
    def skipped(self) -> dict[str, str]:
        """Sources that gave no episode, or were cut short, and why."""
        return dict(self._index["skipped"])

    @property
    def finished(self) -> set[str]:
        """Sources that have given all that they will, as `finish` was told."""
        return set(self._index.get("finished", ()))

    def description(self) -> dict[str, Any]:
        """What tells these clips from others, for whoever splits them the same way again later."""
        index = json.dumps([self.lengths.tolist(), self.sources]).encode()
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
        self._require_writable()
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
        for name, (dtype, shape) in self._fields().items():
            size = np.dtype(dtype).itemsize * math.prod(shape)
            if size:
                _write_at(self.path / f"{name}.bin", self._rows_written * size, rows[name])
        self._rows_written += count * length
        self._index["lengths"] += [length] * count
        self._index["sources"] += [source] * count
        self._maps = None
        self._changed(count)

    def skip(self, source: str, reason: str) -> None:
        """Remember that `source` cannot be read, or not to its end, so that no later build tries it again."""
        self._require_writable()
        self._index["skipped"][source] = reason
        self._changed()

    def finish(self, source: str) -> None:
        """Remember that all episodes of `source` are there."""
        self._require_writable()
        self._index.setdefault("finished", []).append(source)
        self._changed()

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
            before, after = (
                Clips(self.path, self._index, np.array([part]), self.sources)
                for part in ([first, cut], [cut, end])
            )
            return before, after
        sources = self.sources
        place = {name: index for index, name in enumerate(dict.fromkeys(sources))}
        groups = np.arange(self.episodes) if len(place) == 1 else np.array([place[s] for s in sources])
        there = int(groups.max()) + 1
        order = np.random.default_rng(0).permutation(there)
        count = min(max(1, round(held_out * there)), there - 1)
        held = np.isin(groups, order[:count])
        return self._part(np.flatnonzero(~held)), self._part(np.flatnonzero(held))

    def of_length(self, frames: int) -> Clips:
        """Those of at least so many frames."""
        return self._part(np.flatnonzero(self.lengths >= frames))

    def of_sources(self, names: Mapping[str, str]) -> Clips:
        """Those made from the keys of `names`, in their order, whatever order they were made in.

        Their sources, and those that were skipped, are called by the values of `names`.
        """
        place = {source: index for index, source in enumerate(names)}
        sources = self.sources
        chosen = [episode for episode, source in enumerate(sources) if source in place]
        chosen.sort(key=lambda episode: place[sources[episode]])  # stable: a source's own stay in order
        skipped = {names[source]: why for source, why in self.skipped.items() if source in place}
        return Clips(
            self.path,
            self._index | {"skipped": skipped},
            self.intervals[chosen].reshape(-1, 2),
            [names[sources[episode]] for episode in chosen],
        )

    def _part(self, chosen: npt.NDArray[np.intp]) -> Clips:
        """The episodes of those numbers."""
        sources = self.sources
        return Clips(self.path, self._index, self.intervals[chosen], [sources[i] for i in chosen])

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

    def _require_writable(self) -> None:
        if self._lock is None:
            raise ClipsError(f"the clips in {self.path} are open for reading only")

    def _changed(self, count: int = 1) -> None:
        """Write the index if it is time."""
        self._changes += count
        if self._changes >= INDEX_EVERY or time.monotonic() - self._indexed >= INDEX_SECONDS:
            self._write_index()

    def _write_index(self) -> None:
        """Put the data on the disk, then the index that tells of it."""
        for name in self._fields():
            if (self.path / f"{name}.bin").exists():
                with (self.path / f"{name}.bin").open("rb") as file:
                    os.fsync(file.fileno())
        with replacing(self.path / INDEX) as temporary:
            temporary.write_text(json.dumps(self._index) + "\n", encoding="utf-8")
        self._changes, self._indexed = 0, time.monotonic()


def _write_at(path: Path, offset: int, rows: npt.NDArray) -> None:
    """Write `rows` at `offset`, in place of what a killed build left there."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(np.ascontiguousarray(rows).data)


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
