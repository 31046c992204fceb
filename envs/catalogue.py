"""The tasks that can be named, and what is known about them beforehand."""

import dataclasses
import difflib
from collections.abc import Iterable

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs.backend import choose_backend

# PlaNet's action repeats (Hafner et al. 2019, arXiv 1811.04551), by domain.
_PLANET_REPEATS = {"cartpole": 8, "reacher": 4, "cheetah": 4, "finger": 2, "ball_in_cup": 4, "walker": 2}
# PlaNet used only these six domains; for the others TD-MPC2 (Hansen et al. 2024) repeats twice.
_OTHER_REPEATS = 2
# Gymnasium's environments bring their own frame skip.
_GYM_REPEATS = 1


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """A task of `dm_control.suite`."""

    domain: str
    task: str


def action_repeat_for(id: str | gymnasium.Env) -> int:
    """Env frames per agent step if the caller names none: PlaNet's, 2 for other DM Control tasks, else 1."""
    if not isinstance(id, str) or not id.startswith("dmc/"):
        return _GYM_REPEATS
    domain = id.removeprefix("dmc/").partition("-")[0]
    return _PLANET_REPEATS.get(domain, _OTHER_REPEATS)


def resolve(id: str) -> SuiteTask | EnvSpec:
    """Look a task up by its id.

    Args:
        id: `dmc/<domain>-<task>`, or `gym/<id>` with any id that Gymnasium knows, `module:Name-v0` included.

    Raises:
        ValueError: there is no such task; names the nearest ones.
        RuntimeError: a DM Control task on a machine that can't render.
    """
    if id.startswith("gym/"):
        return _resolve_gym(id)
    choose_backend()  # before dm_control is imported, which chooses for itself otherwise
    from dm_control import suite

    tasks = {f"dmc/{domain}-{task}": SuiteTask(domain, task) for domain, task in suite.ALL_TASKS}
    if id not in tasks:
        raise ValueError(_unknown(id, tasks, "dmc/<domain>-<task> or gym/<id>"))
    return tasks[id]


def _resolve_gym(id: str) -> EnvSpec:
    module, _, name = id.removeprefix("gym/").rpartition(":")
    if module:
        # Gymnasium's convention: importing the module registers the environment.
        try:
            __import__(module)
        except ImportError as error:
            raise ValueError(f"unknown task {id!r}: importing {module!r} failed: {error}") from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        known = [f"gym/{known}" for known in gymnasium.registry]
        raise ValueError(_unknown(id, known, "gym/<an id registered with Gymnasium>")) from error


def _unknown(id: str, known: Iterable[str], form: str) -> str:
    nearest = difflib.get_close_matches(id, list(known), n=3, cutoff=0.5)
    hint = f"nearest are {', '.join(nearest)}" if nearest else f"write {form}"
    return f"unknown task {id!r}: {hint}"
