"""How a run is getting on, for whoever watches: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class TrainingProgress:
    """Shows env frames done, the latest return, agent steps per second and the time left. A context manager.

    Arguments:
        total: env frames of the whole run.
        action_repeat: env frames in an agent step.
        step: env frames done before this process.
        console: where to print; standard error by default.
        plain_every: seconds between lines where the console is no terminal.
    """

    def __init__(
        self,
        total: int,
        *,
        action_repeat: int,
        step: int = 0,
        console: Console | None = None,
        plain_every: float = 30.0,
    ) -> None:
        self.total = total
        self.step = step
        self._action_repeat = action_repeat
        self._console = console or Console(stderr=True)
        self._return: float | None = None
        self._every = 0.2 if self._console.is_terminal else plain_every
        self._history = deque([(time.monotonic(), step)])  # (seconds, env frames) of the last minute or so
        self._shown = time.monotonic()
        # Without a refresh thread of its own: the loop forks workers and wants its two cores for itself.
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, completed=step, line=self._line())

    @property
    def agent_steps_per_second(self) -> float:
        """Over about the last minute; 0.0 before two steps are done."""
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / self._action_repeat / (end - start) if end > start else 0.0

    def advance(self, step: int, *, episode_return: float | None = None) -> None:
        """Tells that `step` env frames are done, and the return of an episode that has just ended."""
        now = time.monotonic()
        self.step = step
        if episode_return is not None:
            self._return = episode_return
        self._history.append((now, step))
        while len(self._history) > 2 and now - self._history[0][0] > 60.0:
            self._history.popleft()
        if now - self._shown >= self._every or step >= self.total:
            self._show(now)

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
        speed = self.agent_steps_per_second
        parts = [f"{self.step:,}/{self.total:,} frames"]
        if self._return is not None:
            parts.append(f"return {self._return:.1f}")
        if speed > 0:
            left = (self.total - self.step) / self._action_repeat / speed
            parts += [f"{speed:.1f} agent steps/s", f"{timedelta(seconds=round(left))} left"]
        return " · ".join(parts)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
