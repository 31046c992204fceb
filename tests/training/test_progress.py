"""A bar for a terminal, plain lines for a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gje_world.training import progress as progress_module
from gje_world.training.progress import TrainingProgress


def frames(total: int, action_repeat: int, **options) -> TrainingProgress:
    options = {"rest_every": total, "work_per_step": 1 / action_repeat} | options
    return TrainingProgress(total, unit="frames", work="agent steps", **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_now_and_then(clock: list[float]) -> None:
    output = io.StringIO()
    with frames(800, 8, console=Console(file=output, width=40), plain_every=10) as bar:
        for step in range(8, 808, 8):
            clock[0] += 0.5
            bar.advance(step, note="return 12.3" if step == 80 else None)
    lines = output.getvalue().splitlines()
    assert lines == [
        "160/800 frames · return 12.3 · 2.0 agent steps/s · 0:00:40 left and 1 evaluation",
        "320/800 frames · return 12.3 · 2.0 agent steps/s · 0:00:30 left and 1 evaluation",
        "480/800 frames · return 12.3 · 2.0 agent steps/s · 0:00:20 left and 1 evaluation",
        "640/800 frames · return 12.3 · 2.0 agent steps/s · 0:00:10 left and 1 evaluation",
        "800/800 frames · return 12.3 · 2.0 agent steps/s · 0:00:00 left and 1 evaluation",
    ]


def test_speed_is_of_the_last_minute_and_of_this_process(clock: list[float]) -> None:
    bar = frames(100_000, 4, step=50_000, console=Console(file=io.StringIO()))
    assert bar.speed == 0.0
    for _ in range(600):
        clock[0] += 1.0
        bar.advance(bar.step + 4)
    assert bar.speed == pytest.approx(1.0)
    for _ in range(600):
        clock[0] += 0.1
        bar.advance(bar.step + 4)
    assert bar.speed == pytest.approx(10.0, rel=0.2)


def test_what_is_done_between_steps_does_not_count_in_the_speed(clock: list[float]) -> None:
    bar = frames(100_000, 4, console=Console(file=io.StringIO()))
    for pause in (0.0, 150.0, 0.0):
        with bar.resting():
            clock[0] += pause
        for _ in range(5):
            clock[0] += 1.0
            bar.advance(bar.step + 4)
            assert bar.speed == pytest.approx(1.0)


def test_what_is_left_counts_evaluations_as_long_as_the_last_one(clock: list[float]) -> None:
    output = io.StringIO()
    bar = frames(100, 1, rest_every=30, console=Console(file=output, width=80), plain_every=10)
    for step in range(1, 101):
        clock[0] += 1
        bar.advance(step)
        if step % 30 == 0:
            with bar.resting():
                clock[0] += 100
    told = {line.split("/")[0]: line.split(" · ")[-1] for line in output.getvalue().splitlines()}
    assert told["20"] == "0:01:20 left and 4 evaluations"
    assert told["31"] == "0:06:09 left"  # 69 steps of a second; three evaluations, the last at the end
    assert told["61"] == "0:03:59 left"
    assert told["100"] == "0:01:40 left"  # the last evaluation is to come


def test_a_terminal_gets_a_bar_and_announcements_as_they_are(clock: list[float]) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with frames(80, 8, console=console) as bar:
        for step in range(8, 88, 8):
            clock[0] += 1
            bar.advance(step)
        bar.announce("saved [bold]runs/x[/bold]")
    assert "━" in output.getvalue() and "80/80 frames" in output.getvalue()
    assert "saved [bold]runs/x[/bold]" in output.getvalue()
