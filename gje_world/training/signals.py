"""SIGTERM and Ctrl-C as a polite question, so that a run can finish its step and save."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKED = "\nasked to stop by {}: saving; the same command goes on\n"


class Stopped(Exception):
    """Work was left because someone has asked the run to stop."""


class Stop:
    """Whether someone has asked the run to stop, and by which signal ("SIGTERM", "SIGINT")."""

    def __init__(self) -> None:
        self.signal: str | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def status(self) -> int:
        """Exit status of work that was left when asked: what shells expect of one ended by that signal."""
        return 1 if self.signal is None else 128 + signal.Signals[self.signal]

    def check(self) -> None:
        """Leave the work at hand if asked to.

        Raises:
            Stopped: someone has asked.
        """
        if self.requested:
            raise Stopped


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within the block, SIGTERM and the first SIGINT set `stop.requested` and say so; a second SIGINT raises.

    Worker processes forked within the block leave SIGINT, which a terminal sends to the whole group, to the
    process that started them, and end on SIGTERM as usual. Must be entered in the main thread.

    Raises:
        KeyboardInterrupt: at the second Ctrl-C.
    """
    stop = Stop()
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT and stop.signal == "SIGINT":
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number).name
        with suppress(OSError):  # whoever read it may be gone
            os.write(2, ASKED.format(stop.signal).encode())  # no buffer: we may be in the midst of using one

    former = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
