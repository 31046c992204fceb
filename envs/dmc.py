"""Tasks of the DM Control suite as Gymnasium environments of their low-dimensional state."""

import logging
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import compute_n_steps

from envs.rendering import FrameRenderer

# Camera 0 unless named here. As published results on pixels have it: in quadruped's camera 0 the robot is
# a few pixels wide.
_CAMERAS = {"quadruped": 2}
# From here on a bound means "unbounded" (lqr gives ±1e10); such an actuator is driven in [-1, 1].
_UNBOUNDED = 1e9
# What tasks draw when an episode begins and keep in the model: where the target is (reacher, fish; finger;
# stacker, manipulator), what each actuator pulls (point_mass). Not so the terrain of quadruped-escape.
_DRAWN = ("geom_pos", "site_pos", "body_pos", "body_quat", "wrap_prm")


class SuiteEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task of `dm_control.suite`; a step is one control step, and no episode has a time limit.

    Observations are the task's own, flattened in its order: float32 [S], named by `state_names`. The angle of
    a joint that turns far is told by its cosine and sine, as some tasks do themselves: what turns is seen at
    the same place after a full turn. Actions are float32 [A] within the actuators' bounds. An episode ends
    only where the task says so: with `terminated` if its discount is 0, else with `truncated`.

    A reset draws the episode's random state from `np_random`, so the same seed gives the same episode
    whatever came before. What a task draws only when it is built (lqr its springs) is the same for all seeds.

    Args:
        domain, task: names as in `dm_control.suite.ALL_TASKS`.
        image_size: height and width of what `render` returns, in pixels.
        quality: `fast` or `faithful`, see `envs.rendering`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, domain: str, task: str, image_size: int, quality: str) -> None:
        self._suite_env = _load(domain, task)
        physics = self._suite_env.physics
        self._substeps = compute_n_steps(self._suite_env.control_timestep(), physics.timestep())
        self._renderer = FrameRenderer(physics, image_size, quality, _CAMERAS.get(domain, 0))
        spec = self._suite_env.action_spec()
        bounded = (np.abs(spec.minimum) < _UNBOUNDED) & (np.abs(spec.maximum) < _UNBOUNDED)
        low = np.where(bounded, spec.minimum, -1.0).astype(np.float32)
        high = np.where(bounded, spec.maximum, 1.0).astype(np.float32)
        self.render_mode = "rgb_array"
        self.metadata = self.metadata | {"render_fps": round(1 / self._suite_env.control_timestep())}
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        # The suite knows an observation's shape only once an episode has begun.
        observation = self._suite_env.reset().observation
        turning = self._far_turning(_flatten(observation))
        self._copies = 1 + turning  # of each number: a cosine and a sine of what turns far
        self._cosines = np.flatnonzero(turning) + np.arange(turning.sum())  # their places; sines come next
        names = np.repeat(np.array(_names(observation), object), self._copies)
        names[self._cosines] += ".cos"
        names[self._cosines + 1] += ".sin"
        self.state_names = tuple(names)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.state_names),), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; `options` has no meaning here."""
        super().reset(seed=seed)
        self._suite_env.task.random.seed(self.np_random.integers(2**32, dtype=np.uint32))
        return self._told(self._suite_env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step."""
        now = self._suite_env.step(np.asarray(action, np.float64))
        terminated = now.last() and now.discount == 0.0
        truncated = now.last() and not terminated
        return self._told(now.observation), float(now.reward), terminated, truncated, {}

    def advance(self, action: np.ndarray, steps: int) -> np.ndarray:
        """Hold an action for some control steps, without telling rewards; the observation after them."""
        env, physics = self._suite_env, self._suite_env.physics
        action = np.asarray(action, np.float64)
        # what dm_control's own step does, but for reward, termination and the observations in between
        for _ in range(steps):
            env.task.before_step(action, physics)
            physics.step(self._substeps)
            env.task.after_step(physics)
        return self._told(env.task.get_observation(physics))

    def physics_state(self) -> np.ndarray:
        """All that the simulation goes on from: positions, velocities, activations, and what the task drew
        for the episode; float64 [P].
        """
        physics = self._suite_env.physics
        drawn = [np.ravel(getattr(physics.model, name)) for name in _DRAWN]
        return np.concatenate([*drawn, physics.get_state()])

    def go_to(self, physics_state: np.ndarray) -> np.ndarray:
        """Continue the episode from a `physics_state` [P]; the observation there."""
        physics = self._suite_env.physics
        for name in _DRAWN:
            places = getattr(physics.model, name)
            places[:] = physics_state[: places.size].reshape(places.shape)
            physics_state = physics_state[places.size :]
        physics.set_state(physics_state)
        physics.forward()
        return self._told(self._suite_env.task.get_observation(physics))

    def render(self) -> np.ndarray:  # type: ignore[override]  # Gymnasium also allows None and lists of frames
        """Draw the current state: uint8 [H, W, 3]."""
        return self._renderer.frame()

    def _told(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The observation with cosines and sines in place of angles that turn far: float32 [S]."""
        told = np.repeat(_flatten(observation), self._copies)
        told[self._cosines] = np.cos(told[self._cosines])
        told[self._cosines + 1] = np.sin(told[self._cosines + 1])
        return told

    def _far_turning(self, before: np.ndarray) -> np.ndarray:
        """Which numbers of an observation are angles of hinges free to turn by more than a half: bool [S].

        They are those that take on whatever such a hinge's position is set to.
        """
        physics = self._suite_env.physics
        joints = physics.model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE)
        limited, (low, high) = physics.model.jnt_limited.astype(bool), physics.model.jnt_range.T
        places = physics.model.jnt_qposadr[joints & (~limited | (high - low > np.pi))]
        found = np.zeros(before.shape, bool)
        with physics.reset_context():
            for count, place in enumerate(places):
                physics.data.qpos[place] = 0.1234 + 0.01 * count
        now = _flatten(self._suite_env.task.get_observation(physics))
        for place in places:
            found |= (now == np.float32(physics.data.qpos[place])) & (now != before)
        return found

    def close(self) -> None:
        """Free the simulation and its OpenGL context."""
        self._suite_env.physics.free()


def _load(domain: str, task: str) -> Any:
    """The suite's environment, without its time limit: Gymnasium's wrapper counts exact control steps."""
    logger = logging.getLogger("absl")
    level = logger.level
    # MuJoCo warns of old attributes in the suite's own model files; no user of this package can mend those.
    logger.setLevel(logging.ERROR)
    try:
        return suite.load(domain, task, task_kwargs={"random": 0, "time_limit": float("inf")})
    finally:
        logger.setLevel(level)


def _flatten(observation: Mapping[str, Any]) -> np.ndarray:
    """All values of the observation in one vector: float32 [S]."""
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def _names(observation: Mapping[str, Any]) -> tuple[str, ...]:
    """A name for each number of the flattened observation: `height`, `position[0]`, `arm_pos[0,1]`."""
    names = []
    for key, value in observation.items():
        for index in np.ndindex(np.shape(value)):
            names.append(f"{key}[{','.join(map(str, index))}]" if index else key)
    return tuple(names)
