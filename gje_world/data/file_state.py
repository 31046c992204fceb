"""Files that are as they were, and files that have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def state_of(files: Iterable[Path]) -> str:
    """Tells a state of `files` from others, by names, sizes and times of change: eight hexadecimal digits.

    Raises:
        OSError: there is no such file.
    """
    stats = ((file.name, file.stat()) for file in files)
    words = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return digest("\n".join(words))


def digest(text: str) -> str:
    """A short name of a long text, in which names of files may be no UTF-8."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
