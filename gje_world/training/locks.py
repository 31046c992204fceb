"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


class LockedError(RuntimeError):
    """Another process holds the lock; the message is its process id."""


def lock(folder: Path, waiting: Callable[[str], None] | None = None) -> int:
    """Locks `folder` for this process until the descriptor it returns is closed, or the process ends.

    The operating system frees the lock however the process ends. A folder holds one lock: what opens and
    closes its file `.lock` again in the same process gives it back.

    Arguments:
        waiting: called with the holder's process id before it is waited for; None: nobody is waited for.

    Raises:
        LockedError: another process holds it, and is not waited for.
        OSError: the folder cannot be written.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A record lock, unlike flock, is not inherited by forked environment workers, which may outlive a
        # killed run by a moment and would keep its directory locked.
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            if waiting is None:
                raise LockedError(holder) from error
            waiting(holder)
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning(
                "%s: this file system has no locks (%s); let no second process write to it",
                folder,
                error.strerror,
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
