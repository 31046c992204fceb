"""Puts an environment together: task, time limit, action repeat, pixels, frame stack, seed."""

import functools

import gymnasium
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec

from envs.backend import choose_backend
from envs.catalogue import SuiteTask, action_repeat_for, resolve
from envs.gym import adopt
from envs.wrappers import PixelObservation, PixelTask, normalise_action

RENDER_QUALITIES = ("fast", "faithful")
# Every episode of the suite lasts 1000 control steps; its lqr tasks, which have no limit, get the same.
_SUITE_TIME_LIMIT = 1000


def make(
    id: str | gymnasium.Env,
    *,
    seed: int = 0,
    action_repeat: int | None = None,
    frame_stack: int = 3,
    image_size: int = 64,
    render: str = "fast",
    time_limit: int | None = None,
) -> gymnasium.Env:
    """Make an environment that is seen through pixels and acted on in [-1, 1].

    Observations are uint8 [3·frame_stack, H, W], oldest frame first; after a reset the first frame is
    repeated. Actions are float32 [A] in [-1, 1]. The reward is summed over the repeated env frames.
    `info["state"]` is the task's true state, float32 [S], where it is known. `env.get_wrapper_attr` knows
    `action_repeat`, `state_names` and `max_episode_steps` (agent steps, or None). `env.render()` returns the
    newest frame, uint8 [H, W, 3]. `reset(seed=s)` gives the same episode whatever came before.

    Args:
        id: `dmc/<domain>-<task>`, `gym/<id>` with an id registered with Gymnasium, or a Gymnasium environment
            made with `render_mode="rgb_array"`.
        seed: of the first reset, unless that is given one.
        action_repeat: env frames per agent step; None for PlaNet's, see `action_repeat_for`.
        frame_stack: frames in an observation.
        image_size: H and W, in pixels.
        render: `fast` (no shadows, the default) or `faithful` (as dm_control draws, for comparison with
            published results). Other environments draw themselves.
        time_limit: env frames after which an episode is truncated; None for the task's own.

    Raises:
        ValueError: an unknown task (names the nearest), a size below 1, an unknown render word; or an action
            space or a picture that can't be used.
        RuntimeError: a DM Control task on a machine that can't render.
    """
    _check_options(action_repeat, frame_stack, image_size, render, time_limit)
    task = resolve(id) if isinstance(id, str) else id
    repeat = action_repeat or action_repeat_for(id)
    return _build(task, seed, repeat, frame_stack, image_size, render, time_limit)


def make_vector(
    id: str,
    num_envs: int,
    *,
    seed: int = 0,
    action_repeat: int | None = None,
    frame_stack: int = 3,
    image_size: int = 64,
    render: str = "fast",
    time_limit: int | None = None,
) -> gymnasium.vector.VectorEnv:
    """Make `num_envs` environments, each in a process of its own with its own renderer.

    Environment i is `make(id, seed=seed + i, ...)`. As with all that spawns processes, a script calls this
    under `if __name__ == "__main__":`.

    Raises:
        ValueError: see `make`; or `id` is an instance, of which there is only one.
    """
    if not isinstance(id, str):
        raise ValueError(
            f"id={id}: an instance can't be copied to other processes; register it and give its id"
        )
    _check_size("num_envs", num_envs)
    _check_options(action_repeat, frame_stack, image_size, render, time_limit)
    # The task is looked up here, once: the workers may not know what the caller has registered.
    build = functools.partial(
        _build,
        resolve(id),
        repeat=action_repeat or action_repeat_for(id),
        frame_stack=frame_stack,
        image_size=image_size,
        render=render,
        time_limit=time_limit,
    )
    # OpenGL contexts do not survive a fork.
    return gymnasium.vector.AsyncVectorEnv(
        [functools.partial(build, seed=seed + index) for index in range(num_envs)], context="spawn"
    )


def _build(
    task: SuiteTask | EnvSpec | gymnasium.Env,
    seed: int,
    repeat: int,
    frame_stack: int,
    image_size: int,
    render: str,
    time_limit: int | None,
) -> gymnasium.Env:
    """`make`, with the task looked up and every option known to be good."""
    env: gymnasium.Env
    limit: int | None
    if isinstance(task, SuiteTask):
        limit = time_limit or _SUITE_TIME_LIMIT
        env = wrappers.TimeLimit(_suite_env(task, image_size, render), limit)
    else:
        env, limit = adopt(task, time_limit)
    env = wrappers.RepeatAction(env, repeat)
    env = normalise_action(env)
    env = PixelObservation(env, image_size)
    env = wrappers.FrameStackObservation(env, frame_stack)
    env = wrappers.ReshapeObservation(env, (3 * frame_stack, image_size, image_size))
    return PixelTask(env, seed, repeat, None if limit is None else -(-limit // repeat))


def _suite_env(task: SuiteTask, image_size: int, render: str) -> gymnasium.Env:
    choose_backend()
    from envs.dmc import SuiteEnv  # imports dm_control, which must find its backend chosen

    return SuiteEnv(task.domain, task.task, image_size, render)


def _check_options(
    action_repeat: int | None, frame_stack: int, image_size: int, render: str, time_limit: int | None
) -> None:
    for name, size in (("action_repeat", action_repeat), ("time_limit", time_limit)):
        if size is not None:
            _check_size(name, size)
    _check_size("frame_stack", frame_stack)
    _check_size("image_size", image_size)
    if render not in RENDER_QUALITIES:
        raise ValueError(f"render={render!r}: expected one of {', '.join(RENDER_QUALITIES)}")


def _check_size(name: str, size: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"{name}={size!r}: expected a whole number of at least 1")
