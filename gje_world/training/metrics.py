"""What a run measures: one JSON object a row in `metrics.jsonl`, and the same scalars for TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends rows `{"step": env frames or updates, "time": seconds of run, "kind": ..., ...}`, seen at once.

    Wall-clock fields are `time` and everything under `speed/`; all else depends on the seed alone.

    Arguments:
        path: the `metrics.jsonl`.
        tensorboard: folder for TensorBoard's event files.
        resume_offset: the `offset` stored in the checkpoint that the run goes on from: what was logged after
            it is cut off, here and in TensorBoard. None starts an empty log.
        elapsed: seconds the run had taken at that checkpoint (`elapsed` then); its clock goes on from there.
    """

    def __init__(
        self,
        path: Path | str,
        tensorboard: Path | str,
        *,
        resume_offset: int | None = None,
        elapsed: float = 0.0,
    ) -> None:
        self.path = Path(path)
        last_step = _cut(self.path, resume_offset or 0)
        self._file = self.path.open("ab")
        purge_step = 0 if last_step is None else last_step + 1
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=purge_step)
        self._started = time.monotonic() - elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of run so far, over all its resumes. To be stored in the checkpoint."""
        return time.monotonic() - self._started

    @property
    def offset(self) -> int:
        """Bytes logged so far, now safely on the disk. To be stored in the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one row.

        Arguments:
            kind: "train", "episode" or "eval".
            step: env frames or updates so far.
            values: numbers (also 0-d arrays and tensors), lists of numbers, and strings, by name. NaN and
                infinities are written as null, since JSON has no word for them. Single numbers go to
                TensorBoard too.

        Raises:
            TypeError: a value is none of these; the message names it.
        """
        row: dict[str, Any] = {"step": int(step), "time": round(self.elapsed, 3), "kind": kind}
        for name, value in values.items():
            if name in row:
                raise ValueError(f"metric {name!r} has the name of a field that every row has")
            row[name] = _plain(name, value)
        self._file.write(json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        for name in values:
            if isinstance(row[name], (int, float)):
                self._tensorboard.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, [] where there is none yet.

    A last line without its end is one being written and is left out.

    Raises:
        ValueError: another line is no such row; the message gives its number.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not {"step", "time", "kind"} <= row.keys():
            raise ValueError(f"{path}, line {number}: not an object with step, time and kind")
        rows.append(row)
    return rows


def _plain(name: str, value: Any) -> Any:
    """The value as strict JSON can hold it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"metric {name!r} is a {type(value).__name__}: numbers, lists and strings can be logged")


def _cut(path: Path, offset: int) -> int | None:
    """Shortens the log to its first `offset` bytes and gives the step of the last row left, if any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_bytes()[:offset] if path.exists() else b""
    whole = kept[: kept.rfind(b"\n") + 1]
    if len(whole) < offset:
        logger.warning("%s is shorter than at the checkpoint: rows before it are missing", path)
    if path.exists():
        os.truncate(
            path, len(whole)
        )  # one call: a kill leaves the long log or the short one, never a torn row
    if not whole:
        return None
    return int(json.loads(whole[whole.rfind(b"\n", 0, -1) + 1 :])["step"])
