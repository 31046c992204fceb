"""The OpenGL backend is found by trying, in a child process; without one, the error says what to install."""

import os
import subprocess
import sys

import pytest

from envs import backend


@pytest.fixture
def fresh(monkeypatch):
    """A process in which no backend has been chosen and dm_control has not been imported."""
    # Set first, so that what the code under test sets is undone as well.
    for name in ("MUJOCO_GL", "LP_NUM_THREADS", backend._TRIED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
    monkeypatch.setattr(backend.platform, "system", lambda: "Linux")
    return monkeypatch


def choose():
    """`choose_backend` without its memory of earlier calls."""
    return backend.choose_backend.__wrapped__()


def fail(*working):
    """A trial in which only the named backends work."""
    return lambda name: None if name in working else "no such library"


def test_the_first_working_backend_is_chosen_and_handed_down_to_child_processes(fresh):
    fresh.setattr(backend, "_try", fail("osmesa", "glfw"))
    assert choose() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert os.environ["LP_NUM_THREADS"] == "0"
    fresh.setattr(backend, "_try", lambda name: pytest.fail("tried again"))
    assert choose() == "osmesa"  # as a worker process, which inherits the environment


def test_a_backend_named_by_the_user_is_the_only_one_tried(fresh):
    fresh.setenv("MUJOCO_GL", "glfw")
    fresh.setattr(backend, "_try", fail("egl", "glfw"))
    assert choose() == "glfw"
    fresh.delenv(backend._TRIED)
    fresh.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(RuntimeError, match="osmesa: no such library") as error:
        choose()
    assert "egl:" not in str(error.value)


def test_the_users_thread_setting_is_kept(fresh):
    fresh.setenv("LP_NUM_THREADS", "2")
    fresh.setattr(backend, "_try", fail("egl"))
    choose()
    assert os.environ["LP_NUM_THREADS"] == "2"


def test_without_any_backend_the_error_is_one_line_that_names_the_packages(fresh):
    fresh.setattr(backend, "_try", fail())
    with pytest.raises(RuntimeError, match=r"libegl1 libgl1-mesa-dri.*libosmesa6") as error:
        choose()
    assert "\n" not in str(error.value)


def test_an_unknown_backend_is_refused_before_anything_is_tried(fresh):
    fresh.setenv("MUJOCO_GL", "directx")
    fresh.setattr(backend, "_try", lambda name: pytest.fail("tried"))
    with pytest.raises(ValueError, match="MUJOCO_GL=directx: expected egl, osmesa or glfw"):
        choose()


@pytest.mark.parametrize(
    ("trial", "failure"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("import time; time.sleep(60)", "hung for 1 s"),
        ("raise ImportError('libEGL.so.1 not found')", "ImportError: libEGL.so.1 not found"),
        ("pass", None),
    ],
)
def test_a_trial_survives_whatever_the_library_does(monkeypatch, trial, failure):
    monkeypatch.setattr(backend, "_TRIAL", trial)
    monkeypatch.setattr(backend, "_TRIAL_SECONDS", 1 if "sleep" in trial else 30)
    assert backend._try("egl") == failure


def test_two_renderers_in_one_process_are_refused(monkeypatch):
    monkeypatch.setattr(backend, "_drawing_with", None)
    backend.claim_drawing("dm_control")
    backend.claim_drawing("dm_control")
    with pytest.raises(RuntimeError, match="draws with dm_control"):
        backend.claim_drawing("another")


def test_importing_envs_loads_no_simulator():
    code = (
        "import sys, envs; sys.exit(any(name in sys.modules for name in ('mujoco', 'dm_control', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
