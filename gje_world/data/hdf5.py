"""Episodes in HDF5, as datasets for offline world models keep them, to clips and back.

One row a step in `pixels` (uint8, `[N, H, W, C]` or `[N, C, H, W]`) and, where there are any, `action` and
`state`; the action of a row is taken there, that of an episode's last row is not used. Where the episodes lie
is told by `ep_len` and `ep_offset`, or by the episode's number in each row, `episode_idx` or `ep_idx`: the
layout of stable-worldmodel (https://github.com/rbalestr-lab/stable-worldmodel, docs/api/dataset.md), which
fills the last action of an episode with NaN and compresses by filters that come with hdf5plugin.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gje_world.data.clip_writer import ClipWriter, longest_episode
from gje_world.data.clips import Clips, ClipsError
from gje_world.training.atomic import replacing

BLOCK = 1_000  # rows read or scaled at once


def import_hdf5(path: Path, cache: Path, image_size: int) -> Clips:
    """Clips of the episodes in the file `path`, copied into `cache`; those there already are not done again.

    Arguments:
        image_size: height and width of the clips' frames; the file's are scaled, and must be square.

    Raises:
        ClipsError: the file cannot be read, or not in this layout, or holds numbers that are not finite.
    """
    h5py = require_h5py()
    try:
        with h5py.File(path, "r") as file:
            _require_filters(file, path)
            return _import(file, path, cache, image_size)
    except OSError as error:
        raise ClipsError(f"data.path={path} cannot be read as HDF5: {error}") from error


def _require_filters(file: Any, path: Path) -> None:
    """Refuses data that is compressed in a way that cannot be undone here.

    Raises:
        ClipsError: naming the filter.
    """
    h5py = require_h5py()
    for name in ("pixels", "action", "state", "ep_len", "ep_offset", "episode_idx", "ep_idx"):
        if not isinstance(dataset := file.get(name), h5py.Dataset):
            continue
        made = dataset.id.get_create_plist()
        for code, _, _, called in map(made.get_filter, range(made.get_nfilters())):
            if not h5py.h5z.filter_avail(code):
                told = f"{called.decode(errors='replace') or 'unnamed'}, {code}"
                raise ClipsError(
                    f"{name} of data.path={path} is compressed by a filter that is not there ({told}); "
                    "most come with hdf5plugin: pip install -e '.[data]'"
                )


def _import(file: Any, path: Path, cache: Path, image_size: int) -> Clips:
    if "pixels" not in file:
        raise ClipsError(f"data.path={path} must hold pixels; it holds {', '.join(file) or 'nothing'}")
    pixels, action, state = file["pixels"], file.get("action"), file.get("state")
    if pixels.ndim != 4 or pixels.dtype != np.uint8:
        raise ClipsError(
            f"pixels of data.path={path} must be uint8 [N, H, W, C], got {pixels.dtype} {list(pixels.shape)}"
        )
    last = pixels.shape[-1] in (1, 3)
    if not last and pixels.shape[1] not in (1, 3):
        raise ClipsError(
            f"pixels of data.path={path} must have 1 or 3 channels, first or last of [N, H, W, C]; "
            f"got {list(pixels.shape)}"
        )
    height, width = pixels.shape[1:3] if last else pixels.shape[2:]
    channels = pixels.shape[-1] if last else pixels.shape[1]
    if height != width:
        raise ClipsError(f"pixels of data.path={path} must be square, got {height}x{width}")
    for name, dataset in (("action", action), ("state", state)):
        if dataset is not None and len(dataset) != len(pixels):
            raise ClipsError(
                f"data.path={path} has {len(dataset)} rows of {name}, but {len(pixels)} of pixels"
            )
    action_dim = 0 if action is None else int(np.prod(action.shape[1:]))
    names = () if state is None else state_names(state)
    with ClipWriter(cache, (channels, image_size, image_size), action_dim, names) as clips:
        most = longest_episode(channels * image_size**2)
        for start, stop, source in cut(episodes(file, path), most)[clips.episodes :]:
            frames = np.concatenate(
                [
                    _scaled(pixels[at : min(at + BLOCK, stop)], last, image_size)
                    for at in range(start, stop, BLOCK)
                ]
            )
            acted = None if action is None else _finite("action", action, start, stop - 1, path)
            states = None if state is None else _finite("state", state, start, stop, path)
            clips.append(frames, acted, states, source=f"rows {source.start} to {source.stop}")
        if not clips.episodes:
            raise ClipsError(f"data.path={path} holds no episode")
    return clips


def _finite(name: str, dataset: Any, start: int, stop: int, path: Path) -> np.ndarray:
    """Rows of a dataset, `[stop - start, N]`.

    Raises:
        ClipsError: naming the first row with a number that is not finite.
    """
    rows = dataset[start:stop].reshape(stop - start, int(np.prod(dataset.shape[1:])))
    wrong = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(wrong):
        only = "; only that of an episode's last row is not used" if name == "action" else ""
        raise ClipsError(
            f"row {start + wrong[0]} of {name} in data.path={path} is {rows[wrong[0]].tolist()}: all must be "
            f"finite{only}"
        )
    return rows


def episodes(file: Any, path: Path) -> list[tuple[int, int]]:
    """First row and length of each episode of an open HDF5 file.

    Raises:
        ClipsError: it does not tell where its episodes lie, or not consistently.
    """
    rows = file["pixels"].shape[0]
    if "ep_len" in file and "ep_offset" in file:
        offsets, lengths = np.asarray(file["ep_offset"]).ravel(), np.asarray(file["ep_len"]).ravel()
    else:
        name = next((name for name in ("episode_idx", "ep_idx") if name in file), None)
        if name is None:
            raise ClipsError(f"data.path={path} must hold ep_len and ep_offset, or episode_idx")
        index = np.asarray(file[name]).ravel()
        offsets = np.flatnonzero(np.diff(index, prepend=index[:1] - 1))
        lengths = np.diff(offsets, append=len(index))
    if len(offsets) != len(lengths) or (offsets < 0).any() or (offsets + lengths > rows).any():
        raise ClipsError(f"data.path={path} has episodes that do not lie within its {rows} rows of pixels")
    found = [(int(start), int(length)) for start, length in zip(offsets, lengths, strict=True) if length]
    for (start, length), (later, _) in pairwise(sorted(found)):
        if later < start + length:
            raise ClipsError(
                f"data.path={path} has episodes that share rows: one of {length} from row {start}, one from "
                f"row {later}"
            )
    return found


def cut(episodes: list[tuple[int, int]], most: int) -> list[tuple[int, int, range]]:
    """Parts, of at most so many rows, of `episodes` (first row, length): first row, end, all of its rows."""
    whole = [range(start, start + length) for start, length in episodes]
    return [(at, min(at + most, rows.stop), rows) for rows in whole for at in rows[::most]]


def state_names(state: Any) -> tuple[str, ...]:
    """Names of the numbers of a `state` dataset: those it carries, or state[0], state[1], …"""
    named = state.attrs.get("names")
    if named is not None:
        return tuple(str(name) for name in named)
    return tuple(f"state[{index}]" for index in range(int(np.prod(state.shape[1:]))))


def _scaled(pixels: np.ndarray, channels_last: bool, side: int) -> np.ndarray:
    """uint8 rows `[N, H, W, C]` or `[N, C, H, W]` as `[N, C, side, side]`."""
    rows = torch.from_numpy(pixels)
    if channels_last:
        rows = rows.permute(0, 3, 1, 2)
    if rows.shape[-1] != side:
        rows = F.interpolate(rows.float(), size=(side, side), mode="area").round().to(torch.uint8)
    return rows.contiguous().numpy()


def export_hdf5(clips: Clips, path: Path) -> Path:
    """Write all `clips` as one HDF5 file, whole or absent."""
    h5py = require_h5py()
    channels, height, width = clips.frame_shape
    lengths, rows = clips.lengths, len(clips)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        chunk = (1, height, width, channels)
        pixels = file.create_dataset("pixels", (rows, height, width, channels), np.uint8, chunks=chunk)
        action = np.zeros((rows, clips.action_dim), np.float32)
        state = np.zeros((rows, len(clips.state_names)), np.float32)
        offsets = np.cumsum(lengths) - lengths
        for episode, (start, length) in enumerate(zip(offsets, lengths, strict=True)):
            frames, actions, states = (part[0].numpy() for part in clips.window(episode, 0, int(length)))
            pixels[start : start + length] = frames.transpose(0, 2, 3, 1)
            action[start : start + length - 1] = actions
            state[start : start + length] = states
        for name, values in (("action", action), ("state", state)):
            if values.shape[1]:
                file[name] = values
        if clips.state_names:
            file["state"].attrs["names"] = list(clips.state_names)
        file["ep_len"], file["ep_offset"] = lengths, offsets
        file["episode_idx"] = np.repeat(np.arange(len(lengths)), lengths)
        file["step_idx"] = np.arange(rows) - np.repeat(offsets, lengths)
    return path


def require_h5py() -> Any:
    """The library, which comes with the extra `data`, able to undo what compressions are installed.

    Raises:
        ClipsError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ClipsError("HDF5 needs h5py: pip install -e '.[data]'") from error
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")  # which registers its filters
    return h5py
