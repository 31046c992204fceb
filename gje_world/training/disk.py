"""Asks for disk space before the work that needs it, not after."""

from __future__ import annotations

import shutil
from pathlib import Path


class DiskSpaceError(RuntimeError):
    """The disk has less free space than a part of the run is known to need."""


def require_disk(path: Path | str, size: int, what: str) -> None:
    """Checks that `size` bytes are free on the disk that holds `path` (which need not exist yet).

    Arguments:
        path: where the bytes are going to be written.
        size: bytes needed.
        what: what needs them, for the message, such as "replay of 100,000 frames".

    Raises:
        DiskSpaceError: naming what is needed and what is free.
    """
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskSpaceError(
            f"{what} needs {format_bytes(size)} in {path}, but only {format_bytes(free)} are free there"
        )


def format_bytes(size: float) -> str:
    """1234567 -> '1.2 MB' (decimal units, as `df -H` prints them)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
