"""What a process says: all, or as one of several that work together, only what it breaks on."""

from __future__ import annotations

import os
import sys
import traceback
from functools import partial
from typing import TextIO

_spoken: TextIO | None = None


def hush() -> None:
    """Silence this process from now on, but for what is written to `heard()` and for tracebacks."""
    global _spoken
    _spoken = os.fdopen(os.dup(2), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.excepthook = partial(traceback.print_exception, file=_spoken)


def heard() -> TextIO:
    """Where errors are written: stderr, as it was before a silence."""
    return _spoken or sys.stderr
