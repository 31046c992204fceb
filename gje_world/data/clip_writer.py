"""Writing clips: episodes appended to a folder, one process at a time, such that a killed build goes on."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gje_world.data.clips import INDEX, VERSION, Clips, ClipsError
from gje_world.training.atomic import replacing
from gje_world.training.locks import lock

logger = logging.getLogger(__name__)

INDEX_EVERY = 64  # episodes from one writing of the index to the next: it grows with all that were before,
INDEX_SECONDS = 10.0  # or so many seconds, if they come first
LONGEST = 4_096  # frames of an episode made from a film or a file: a longer one becomes several,
LARGEST = 2**28  # or so many bytes of them, so that memory does not limit it


def longest_episode(frame_bytes: int) -> int:
    """Frames, of so many bytes each, that an episode is to have at most, where it can be cut."""
    return max(1, min(LONGEST, LARGEST // frame_bytes))


class ClipWriter(Clips):
    """Clips in the folder `path`, to be appended to; those already there are kept.

    To be used in a `with` block, whose end puts all of them on the disk; what was written can be read before.
    The index is replaced whole, once in a while and at the end, after the data is on the disk: a build that
    was killed goes on after the last episode that it tells of. While another process writes to the folder it
    is waited for. Of a folder that cannot be written the clips are open for reading only.

    Arguments:
        frame_shape: `(C, H, W)` of a frame.
        action_dim: `A`, numbers in an action; 0 where there are none.
        state_names: of the `S` numbers of the true state; empty where it is not known.

    Raises:
        ClipsError: the folder holds clips of another kind.
    """

    def __init__(
        self,
        path: Path | str,
        frame_shape: tuple[int, int, int],
        action_dim: int = 0,
        state_names: Sequence[str] = (),
    ):
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = None  # held by what may write
        if os.access(path, os.W_OK):
            self._lock = lock(
                path,
                lambda holder: logger.warning("%s is being written by process %s: waiting", path, holder),
            )
        try:
            there = (path / INDEX).exists()
            index = Clips.open(path)._index if there else empty_index(frame_shape, action_dim, state_names)
            super().__init__(path, index)
            if there:
                self._require_kind(frame_shape, action_dim, state_names)
            self._rows_written = sum(index["lengths"])
            self._changes, self._indexed = 0, time.monotonic()  # since the index was last written, and when
            if not there:
                self._write_index()
        except BaseException:
            self._release()
            raise

    def _require_kind(
        self, frame_shape: tuple[int, ...], action_dim: int, state_names: Sequence[str]
    ) -> None:
        """Refuses clips that are not of this form."""
        asked = {
            "frame_shape": tuple(frame_shape),
            "action_dim": action_dim,
            "state_names": tuple(state_names),
        }
        for name, value in asked.items():
            if getattr(self, name) != value:
                raise ClipsError(
                    f"{self.path} holds clips of {name}={getattr(self, name)}, not {value}; "
                    "choose another folder"
                )

    def close(self) -> None:
        """Put all that was appended on the disk and let others write; what stands there can still be read."""
        try:
            if self._lock is not None and self._changes:
                self._write_index()
        finally:
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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
            "actions": as_rows("actions", actions, count, length, length - 1, self.action_dim),
            "states": as_rows("states", states, count, length, length, len(self.state_names)),
        }
        for name, (dtype, shape) in self._fields().items():
            size = np.dtype(dtype).itemsize * math.prod(shape)
            if size:
                write_at(self.path / f"{name}.bin", self._rows_written * size, rows[name])
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


def empty_index(
    frame_shape: tuple[int, int, int], action_dim: int, state_names: Sequence[str]
) -> dict[str, Any]:
    """The index of a folder without episodes."""
    return {
        "version": VERSION,
        "frame_shape": list(frame_shape),
        "action_dim": action_dim,
        "state_names": list(state_names),
        "lengths": [],
        "sources": [],
        "skipped": {},
        "finished": [],
    }


def as_rows(
    name: str, given: npt.NDArray | None, count: int, length: int, steps: int, dim: int
) -> npt.NDArray[np.float32]:
    """What was given as float32 rows, one a frame: the row after an episode's last action is zero."""
    shape = (count, steps, dim)
    there = (count, steps, 0) if given is None else np.shape(given)
    if there != shape:
        raise ClipsError(f"{name} must be {list(shape[1:])} beside {length} frames, got {list(there[1:])}")
    rows = np.zeros((count, length, dim), np.float32)
    if given is not None:
        rows[:, :steps] = given
    return rows


def write_at(path: Path, offset: int, rows: npt.NDArray) -> None:
    """Write `rows` at `offset`, in place of what a killed build left there."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(np.ascontiguousarray(rows).data)
