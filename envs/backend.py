"""Which OpenGL library draws the frames: EGL, OSMesa or GLFW, found by trying each in a child process.

A library that is half installed may raise, hang or crash the process that loads it, so none is loaded here
before a child has drawn a frame with it. MuJoCo and dm_control read `MUJOCO_GL` once, when they are imported:
`choose_backend` comes before those imports. Worker processes inherit the answer and do not try again.
"""

import functools
import os
import platform
import subprocess
import sys

# Says to child processes that MUJOCO_GL holds a backend that has been tried, not a wish.
_TRIED = "GJE_WORLD_GL_TRIED"
_TRIAL = """
from dm_control import mujoco
xml = '<mujoco><visual><quality shadowsize="0" offsamples="0"/></visual></mujoco>'
mujoco.Physics.from_xml_string(xml).render(16, 16)
"""
_TRIAL_SECONDS = 60
_drawing_with: str | None = None  # changed by claim_drawing alone
_GLFW_SYNONYMS = ("glfw", "on", "enable", "enabled", "true", "1")
_INSTALL = "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)"


@functools.cache
def choose_backend() -> str:
    """Set `MUJOCO_GL` to a backend that draws frames on this machine, and return it.

    A backend named in `MUJOCO_GL` by the user is the only one tried. Systems other than Linux have one
    native library each, which MuJoCo picks itself; there `MUJOCO_GL` is left as it is.

    Raises:
        RuntimeError: no backend works; names the packages to install.
        ValueError: `MUJOCO_GL` is no backend that can draw.
    """
    wish = os.environ.get("MUJOCO_GL", "").strip().lower()
    # llvmpipe, Mesa's software renderer, is faster on small frames without threads of its own, and leaves
    # the cores to learning. It reads this once, when the first context is made. Graphics cards ignore it.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if platform.system() != "Linux":
        return wish or "native"
    if wish and wish == os.environ.get(_TRIED):
        return wish
    loaded = sys.modules.get("dm_control._render")
    failures = []
    # Where the caller imported dm_control first, its choice is made, and all that is left is to check it.
    for backend in _candidates(wish) if loaded is None else (str(loaded.BACKEND),):
        failure = _try(backend)
        if failure is None:
            os.environ["MUJOCO_GL"] = os.environ[_TRIED] = backend
            return backend
        failures.append(f"{backend}: {failure}")
    tried = "; ".join(failures)
    if loaded is not None:
        raise RuntimeError(
            f"dm_control, imported before envs, chose an OpenGL library that does not work here ({tried}); "
            "call envs.make first or set MUJOCO_GL=egl"
        )
    raise RuntimeError(f"no OpenGL library for headless rendering works ({tried}); {_INSTALL}")


def claim_drawing(renderer: str) -> None:
    """Say, before the first frame, whose OpenGL contexts this process draws with.

    dm_control and Gymnasium's MuJoCo environments each take the context they last made current to be current
    still; side by side, one of them draws black or foreign frames.

    Raises:
        RuntimeError: this process already draws with another renderer.
    """
    global _drawing_with
    if _drawing_with not in (None, renderer):
        raise RuntimeError(
            f"this process draws with {_drawing_with}, beside which {renderer} would draw wrong frames: "
            "use a process for each"
        )
    _drawing_with = renderer


def _candidates(wish: str) -> tuple[str, ...]:
    """Backends to try, best first."""
    if wish in _GLFW_SYNONYMS:
        return ("glfw",)
    if wish in ("egl", "osmesa"):
        return (wish,)
    if wish:
        raise ValueError(f"MUJOCO_GL={wish}: expected egl, osmesa or glfw, or nothing to have one chosen")
    return ("egl", "osmesa", "glfw")


def _try(backend: str) -> str | None:
    """Draw one frame with `backend` in a child process; None if that worked, else why not, in one line."""
    environment = os.environ | {"MUJOCO_GL": backend}
    command = [sys.executable, "-c", _TRIAL]
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"hung for {_TRIAL_SECONDS} s"
    if child.returncode == 0:
        return None
    if child.returncode < 0:
        return f"crashed with signal {-child.returncode}"
    errors = child.stderr.strip().splitlines()
    return errors[-1] if errors else f"exit status {child.returncode}"
