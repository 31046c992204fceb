"""Checkpoints that are whole or absent, checked when read, and that run no code when loaded."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gje_world.training.atomic import commit
from gje_world.training.content import content_digest

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{9,})-([0-9a-f]{16})\.pt")
_TEMPORARY = ".saving.tmp"
DIGITS = 16  # of a checkpoint's digest


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none of those there can be read."""


class CheckpointStore:
    """The last few checkpoints of a run: `step_<step>-<digest>.pt` in one folder.

    The digest in the name is of the file's content, so that one rename commits a checkpoint and its check
    together. One process writes at a time (see `RunDirectory`); any number may read.

    Arguments:
        folder: made at the first save if missing.
        keep: how many checkpoints stay.
    """

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = Path(folder)
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints there, oldest first, whether damaged or not."""
        if not self.folder.is_dir():
            return []
        found = [
            (int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes `state` as the newest checkpoint and prunes the oldest.

        Arguments:
            step: env frames so far. Checkpoints of this step or a later one are replaced: a run that stands
                here has fallen back behind them.
            state: nested dicts, lists and tuples of tensors, arrays, numbers, strings, bytes, None. Arrays
                come back as tensors.

        Raises:
            TypeError: something else is in `state`; the message says where.
            CheckpointError: the file cannot be written; the checkpoints before it are untouched.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        storable = _storable(state, "state")
        before = self.paths()
        temporary = self.folder / _TEMPORARY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(storable, file)
            path = self.folder / f"step_{step:09d}-{content_digest(temporary)[:DIGITS]}.pt"
            commit(temporary, path)
        except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
            temporary.unlink(missing_ok=True)
            raise CheckpointError(
                f"checkpoint of step {step} not written to {self.folder}: {error}"
            ) from error
        older = [other for other in before if step_of(other) < step]
        kept = [*older, path][-self.keep :]
        for other in before:
            if other not in kept:
                other.unlink(missing_ok=True)
        return path

    def load_latest(self, map_location: torch.device | str = "cpu") -> tuple[dict[str, Any], Path] | None:
        """The newest checkpoint that can be read, with its path; None where there is none at all.

        A damaged one is named in a warning and the one before it is tried. Only tensors and plain values are
        read (`weights_only`): a file that holds anything else counts as damaged.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_checkpoint(path, map_location), path
            except CheckpointError as error:
                logger.warning("%s; trying the one before it", error)
        if paths:
            raise CheckpointError(
                f"all {len(paths)} checkpoints in {self.folder} are damaged; "
                "choose another run_dir to start anew"
            )
        return None


def load_checkpoint(path: Path | str, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads one checkpoint after checking its digest.

    Raises:
        CheckpointError: the file is missing or damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint (step_<frames>-<digest>.pt)")
    try:
        if content_digest(path)[:DIGITS] != match[2]:
            raise CheckpointError(f"checkpoint {path} is damaged: its content does not match its digest")
        if not zipfile.is_zipfile(path):  # torch's older formats, which no run of ours writes
            raise CheckpointError(f"checkpoint {path} is refused: it is not in torch's zip format")
        state = torch.load(path, map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # torch's own message advises to load without weights_only, which is the last thing to do here
        raise CheckpointError(
            f"checkpoint {path} is refused: it holds something other than tensors and plain values"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} is refused: it holds a {type(state).__name__}, not a dict")
    return state


def step_of(path: Path) -> int:
    """The step that the name of a checkpoint tells."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _storable(value: Any, where: str) -> Any:
    """The value with arrays as tensors and mappings as dicts; a TypeError says what cannot be stored."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # torch.save writes the whole storage a view looks into
        whole = value.is_sparse or value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {_key(key, where): _storable(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_storable(item, f"{where}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a checkpoint holds tensors, arrays and plain values"
    )


def _key(key: Any, where: str) -> Any:
    if type(key) not in (str, int, float, bool):
        raise TypeError(f"{where} has the key {key!r}: keys of a checkpoint are strings or numbers")
    return key
