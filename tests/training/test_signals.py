"""The first signal asks, the second Ctrl-C insists, and workers die as workers do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from gje_world.training.signals import stop_on_signals

fork = multiprocessing.get_context("fork")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_tells(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    former = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number.name
    assert f"asked to stop by {number.name}" in capfd.readouterr().err
    assert signal.getsignal(number) is former


def test_the_second_ctrl_c_interrupts() -> None:
    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former


def test_forked_workers_end_on_sigterm_and_leave_ctrl_c_to_their_parent() -> None:
    with stop_on_signals() as stop:
        worker = fork.Process(target=time.sleep, args=(60,))
        worker.start()
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.3)
        assert worker.is_alive()
        worker.terminate()
        worker.join(60)
        assert worker.exitcode == -signal.SIGTERM
        assert not stop.requested
