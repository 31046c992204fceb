"""Takes in environments that are Gymnasium's, or a user's own."""

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from envs.backend import choose_backend, claim_drawing


class OwnContext(gymnasium.Wrapper, RecordConstructorArgs):
    """Let a MuJoCo environment of Gymnasium draw in its own OpenGL context, which it forgets to make current.

    Without this, of two such environments in one process the first draws into the second's.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def render(self):  # type: ignore[no-untyped-def]  # whatever the wrapped environment returns
        """Draw as the wrapped environment does."""
        viewer = self.get_wrapper_attr("mujoco_renderer").viewer
        if viewer is not None:
            viewer.make_context_current()
        return self.env.render()


def adopt(task: EnvSpec | gymnasium.Env, time_limit: int | None) -> tuple[gymnasium.Env, int | None]:
    """Make the environment, or take the instance, and see to it that it can draw itself.

    Args:
        task: what Gymnasium's registry holds, or an instance made with `render_mode="rgb_array"`.
        time_limit: env frames after which an episode is truncated; None for its own.

    Returns:
        The environment, and the env frames in its longest episode (None if it has no limit).

    Raises:
        ValueError: it can't draw itself, or a package it needs is not installed.
        RuntimeError: a MuJoCo environment where DM Control tasks are drawn, see `envs.backend`.
    """
    if isinstance(task, EnvSpec):
        env = _made(task, time_limit)
        return env, env.spec.max_episode_steps if env.spec is not None else time_limit
    _check_render_mode(task, str(task))
    task = _with_own_context(task)
    own_limit = task.spec.max_episode_steps if task.spec is not None else _wrapped_limit(task)
    if time_limit is None:
        return task, own_limit
    limit = time_limit if own_limit is None else min(time_limit, own_limit)
    return gymnasium.wrappers.TimeLimit(task, limit), limit


def _wrapped_limit(env: gymnasium.Env) -> int | None:
    """The limit of the `TimeLimit` that an instance without a spec is wrapped in, if it is in one."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def _made(spec: EnvSpec, time_limit: int | None) -> gymnasium.Env:
    name = f"gym/{spec.id}"
    try:
        env = gymnasium.make(spec, render_mode="rgb_array", max_episode_steps=time_limit)
        _check_render_mode(env, name)
        env = _with_own_context(env)
        # Some environments find out only when they draw that a package is missing.
        env.reset(seed=0)
        env.render()
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        # what Gymnasium's MuJoCo environments draw with, and do not say where to get
        hint = "; try pip install 'gymnasium[mujoco]'" if "imageio" in str(error) else ""
        raise ValueError(f"{name} can't run: {error}{hint}") from error
    return env


def _with_own_context(env: gymnasium.Env) -> gymnasium.Env:
    """See to the OpenGL of a MuJoCo environment; others are returned as they are."""
    if not env.has_wrapper_attr("mujoco_renderer"):
        return env
    choose_backend()
    claim_drawing("Gymnasium's MuJoCo renderer")
    return OwnContext(env)


def _check_render_mode(env: gymnasium.Env, name: str) -> None:
    if env.render_mode != "rgb_array":
        raise ValueError(f"{name} has render_mode {env.render_mode!r}: pixels need 'rgb_array'")
