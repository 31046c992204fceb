"""How a run is getting on, for whoever watches: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class TrainingProgress:
    """Shows steps done, a note, what is done in a second, and the time left. A context manager.

    Arguments:
        total: steps of the whole run.
        unit: the plural of a step, such as "frames" or "updates".
        work: what speed is told in, such as "agent steps" or "images".
        work_per_step: how much of it a step is.
        step: steps done before this process.
        rest_every: steps between evaluations, the last of which ends the run.
        console: where to print; standard error by default.
        plain_every: seconds between lines where the console is no terminal.
        quiet: show nothing, as all ranks but the first.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str,
        work: str,
        work_per_step: float,
        step: int = 0,
        rest_every: int,
        console: Console | None = None,
        plain_every: float = 30.0,
        quiet: bool = False,
    ) -> None:
        self.total, self.step = total, step
        self._unit, self._work, self._work_per_step = unit, work, work_per_step
        self._console = console or Console(stderr=True, quiet=quiet)
        self._rest_every, self._rest = rest_every, 0.0  # steps; seconds of the last one
        self._rested = self._rests_by(step)
        self._note: str | None = None
        self._every = 0.2 if self._console.is_terminal else plain_every
        self._history = deque([(time.monotonic(), step)])  # (seconds, steps) of the last minute or so
        self._shown = time.monotonic()
        # Without a refresh thread of its own: the loop forks workers and wants its two cores for itself.
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            console=self._console,
            auto_refresh=False,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, completed=step, line=self._line())

    @property
    def speed(self) -> float:
        """Work a second over about the last minute; 0.0 before two steps are done."""
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) * self._work_per_step / (end - start) if end > start else 0.0

    def _rests_by(self, step: int) -> int:
        """Rests up to `step`: at each multiple of `rest_every`, and at the end."""
        whole = step // self._rest_every
        return whole + 1 if step >= self.total > whole * self._rest_every else whole

    def advance(self, step: int, *, note: str | None = None) -> None:
        """Tells that `step` steps are done; a `note`, such as "return 812.3", stands until the next one."""
        now = time.monotonic()
        self.step = step
        self._note = note or self._note
        self._history.append((now, step))
        while len(self._history) > 2 and now - self._history[0][0] > 60.0:
            self._history.popleft()
        if now - self._shown >= self._every or step >= self.total:
            self._show(now)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While an evaluation is done: its time does not count in the speed, but in what is left."""
        start = time.monotonic()
        self._bar.update(self._task, description="evaluating", refresh=self._console.is_terminal)
        try:
            yield
        finally:
            self._bar.update(self._task, description="training", refresh=self._console.is_terminal)
            self._rest = time.monotonic() - start
            self._rested = self._rests_by(self.step)
            self._history = deque((then + self._rest, step) for then, step in self._history)

    def announce(self, message: str) -> None:
        """Prints a line above the bar."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _show(self, now: float) -> None:
        self._shown = now
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self.step, line=self._line(), refresh=True)
        else:
            self.announce(self._line())

    def _line(self) -> str:
        speed = self.speed
        parts = [f"{self.step:,}/{self.total:,} {self._unit}"]
        if self._note is not None:
            parts.append(self._note)
        if speed > 0:
            rests = self._rests_by(self.total) - self._rested
            left = (self.total - self.step) * self._work_per_step / speed + rests * self._rest
            told = f"{timedelta(seconds=round(left))} left"
            if rests and not self._rest:  # how long they take is not known yet
                told += f" and {rests} evaluation{'s' * (rests > 1)}"
            parts += [f"{speed:,.1f} {self._work}/s", told]
        return " · ".join(parts)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
