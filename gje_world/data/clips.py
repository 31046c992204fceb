"""Clips: episodes of uint8 frames with their actions and true states, in memory maps on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
    """Episodes on disk, read through memory maps.

    A folder holds the flat files `frames.bin` (uint8), `actions.bin` and `states.bin` (float32), one row a
    frame, and `index.json`, which says where the episodes lie. `Clips.open` opens one; `ClipWriter` makes it.
    """

    def __init__(
        self,
        path: Path,
        index: dict,
        intervals: npt.NDArray[np.int64] | None = None,
        sources: list[str] | None = None,
    ):
        self.path = path
        self._index = index
        self.frame_shape: tuple[int, int, int] = tuple(index["frame_shape"])  # (C, H, W)
        self.action_dim: int = index["action_dim"]
        self.state_names: tuple[str, ...] = tuple(index["state_names"])
        self._intervals = intervals  # [E, 2] first row and the row after the last; None: all of the index's
        self._sources = sources  # of a part, [E]
        self._maps: dict[str, npt.NDArray] | None = None

    @staticmethod
    def open(path: Path | str) -> Clips:
        """The clips that stand in the folder `path`.

        Raises:
            ClipsError: there are none, or not in a form this version reads.
        """
        path = Path(path)
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            if (version := index["version"]) != VERSION:
                raise ClipsError(f"{path} holds clips of format {version}; this version reads {VERSION}")
            clips = Clips(path, index)
            frames = sum(clips.lengths.tolist())
        except OSError as error:
            raise ClipsError(f"{path} holds no clips: there is no {INDEX} in it that can be read") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ClipsError(f"{path / INDEX} cannot be read: {error!r}") from error
        for name, (dtype, shape) in clips._fields().items():
            size = np.dtype(dtype).itemsize * math.prod(shape) * frames
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
        """What each episode was made from, as the writer was told."""
        return list(self._index["sources"] if self._sources is None else self._sources)

    @property
    def skipped(self) -> dict[str, str]:
        """Sources that gave no episode, or were cut short, and why."""
        return dict(self._index["skipped"])

    @property
    def finished(self) -> set[str]:
        """Sources that have given all that they will, as the writer was told."""
        return set(self._index.get("finished", ()))

    def description(self, *, pixels: bool = True) -> dict[str, Any]:
        """What tells these clips from others, for whoever splits them the same way again later.

        It is how they lie and what they were made from.

        Arguments:
            pixels: and the first and the last frame of each; of what is drawn anew on another machine they
                may differ by a bit.
        """
        digest = hashlib.sha256(json.dumps([self.lengths.tolist(), self.sources]).encode())
        frames = self._opened()["frames"]
        for first, end in self.intervals if pixels else ():
            digest.update(frames[first].tobytes() + frames[end - 1].tobytes())
        return {
            "episodes": self.episodes,
            "frames": len(self),
            "frame_shape": list(self.frame_shape),
            "sha256": digest.hexdigest(),
        }

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.lengths.sum())

    def sample(
        self, generator: np.random.Generator, batch: int, length: int, stride: int = 1, together: int = 1
    ) -> ClipBatch:
        """`batch` windows of `length` frames, uniform over all that lie in one episode.

        Arguments:
            stride: rows from one frame of a window to its next. Where it is above 1, an action is the
                `stride` ones in between side by side, `[B, T-1, stride * A]`.
            together: windows of one episode, which lie side by side in the batch; it divides `batch`.

        Raises:
            ClipsError: there is no episode, or none that long.
        """
        return self.windows(self.draw(generator, batch, length, stride, together), length, stride)

    def draw(
        self, generator: np.random.Generator, batch: int, length: int, stride: int = 1, together: int = 1
    ) -> npt.NDArray[np.int64]:
        """First rows `[batch]` of windows, as `sample` draws them.

        Raises:
            ClipsError: there is no episode, or none that long.
        """
        places = self._places(length, stride)
        ends = np.cumsum(places)
        drawn = generator.integers(ends[-1], size=batch // together)
        episode = np.searchsorted(ends, drawn, side="right")[:, None]
        others = generator.integers(places[episode], size=(len(episode), together - 1))
        start = np.concatenate([drawn[:, None] - (ends - places)[episode], others], 1)
        return (self.intervals[episode, 0] + start).ravel()

    def distinct(
        self, generator: np.random.Generator, most: int, length: int, stride: int = 1, every: int = 1
    ) -> npt.NDArray[np.int64]:
        """First rows `[N]` of windows no two of which are one, `most` of them or all that there are.

        Arguments:
            every: rows of an episode from one window to the next that may be chosen.

        Raises:
            ClipsError: there is no episode, or none that long.
        """
        places = -(-self._places(length, stride) // every)
        ends = np.cumsum(places)
        chosen = generator.choice(ends[-1], min(most, ends[-1]), replace=False)
        episode = np.searchsorted(ends, chosen, side="right")
        return self.intervals[episode, 0] + every * (chosen - (ends - places)[episode])

    @property
    def groups(self) -> npt.NDArray[np.intp]:
        """Number, from 0 on, of what each episode was made from, `[E]`; its own, where that is one thing."""
        sources = self.sources
        place = {name: index for index, name in enumerate(dict.fromkeys(sources))}
        return np.arange(self.episodes) if len(place) == 1 else np.array([place[s] for s in sources])

    def group_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """The group of the episode that each of `rows [N]` lies in."""
        order = np.argsort(self.intervals[:, 0])
        episode = order[np.searchsorted(self.intervals[order, 0], rows, side="right") - 1]
        return self.groups[episode]

    def window(self, episode: int, start: int, length: int, stride: int = 1) -> ClipBatch:
        """The window that begins at frame `start` of an episode, as a batch of one.

        Raises:
            ClipsError: it does not lie in the episode.
        """
        first, end = self.intervals[episode]
        if start < 0 or first + start + (length - 1) * stride >= end:
            raise ClipsError(f"episode {episode} has {end - first} frames: no window of {length} at {start}")
        return self.windows(np.array([first + start]), length, stride)

    def windows(self, starts: npt.NDArray[np.int64], length: int, stride: int = 1) -> ClipBatch:
        """The windows of `length` frames that begin at those rows (`draw`, `distinct`)."""
        rows, span = self._opened()["states"], (length - 1) * stride + 1
        states = np.empty((len(starts), length, len(self.state_names)), np.float32)
        for row, start in enumerate(starts):
            states[row] = rows[start : start + span : stride]
        frames, actions = self.frames_at(starts, length, stride), self.actions_at(starts, length, stride)
        return ClipBatch(frames, actions, torch.from_numpy(states))

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
        groups = self.groups
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

    def frames_at(self, starts: npt.NDArray[np.int64], length: int, stride: int) -> Tensor:
        """Frames, uint8 `[B, length, C, H, W]`, of the windows that begin at those rows (`draw`)."""
        rows, span = self._opened()["frames"], (length - 1) * stride + 1
        frames = np.empty((len(starts), length, *self.frame_shape), np.uint8)
        for row, start in enumerate(starts):  # each a copy of memory that lies together
            frames[row] = rows[start : start + span : stride]
        return torch.from_numpy(frames)

    def actions_at(self, starts: npt.NDArray[np.int64], length: int, stride: int) -> Tensor:
        """Actions `[B, length - 1, stride * A]` of the windows that begin at those rows (`draw`)."""
        rows, span = self._opened()["actions"], (length - 1) * stride
        actions = np.empty((len(starts), length - 1, stride * self.action_dim), np.float32)
        for row, start in enumerate(starts):
            actions[row] = rows[start : start + span].reshape(actions.shape[1:])
        return torch.from_numpy(actions)

    def _places(self, length: int, stride: int) -> npt.NDArray[np.int64]:
        """How many windows begin in each episode, `[E]`.

        Raises:
            ClipsError: there is no episode, or none that long.
        """
        span = (length - 1) * stride + 1
        places = np.maximum(self.lengths - span + 1, 0)
        if not places.any():
            longest = int(self.lengths.max(initial=0))
            have = f"the longest of {self.episodes} has {longest}" if self.episodes else "there is no clip"
            raise ClipsError(f"a window needs {span} frames (length {length}, stride {stride}); {have}")
        return places

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
