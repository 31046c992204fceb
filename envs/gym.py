"""Takes in environments that are Gymnasium's, or a user's own."""

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs.backend import choose_backend


def adopt(task: EnvSpec | gymnasium.Env, time_limit: int | None) -> tuple[gymnasium.Env, int | None]:
    """Make the environment, or take the instance, and see to it that it can draw itself.

    Args:
        task: what Gymnasium's registry holds, or an instance made with `render_mode="rgb_array"`.
        time_limit: env frames after which an episode is truncated; None for its own.

    Returns:
        The environment, and the env frames in its longest episode (None if it has no limit).

    Raises:
        ValueError: it can't draw itself, or a package it needs is not installed.
    """
    if isinstance(task, EnvSpec):
        env = _made(task, time_limit)
        return env, env.spec.max_episode_steps if env.spec is not None else time_limit
    _check_render_mode(task, str(task))
    own_limit = task.spec.max_episode_steps if task.spec is not None else None
    if time_limit is None:
        return task, own_limit
    limit = time_limit if own_limit is None else min(time_limit, own_limit)
    return gymnasium.wrappers.TimeLimit(task, limit), limit


def _made(spec: EnvSpec, time_limit: int | None) -> gymnasium.Env:
    name = f"gym/{spec.id}"
    try:
        env = gymnasium.make(spec, render_mode="rgb_array", max_episode_steps=time_limit)
        _check_render_mode(env, name)
        if hasattr(env.unwrapped, "mujoco_renderer"):
            choose_backend()  # for MuJoCo environments; the others have no need of OpenGL
        # Some environments find out only when they draw that a package is missing.
        env.reset(seed=0)
        env.render()
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ValueError(f"{name} can't run: {error}") from error
    return env


def _check_render_mode(env: gymnasium.Env, name: str) -> None:
    if env.render_mode != "rgb_array":
        raise ValueError(f"{name} has render_mode {env.render_mode!r}: pixels need 'rgb_array'")
