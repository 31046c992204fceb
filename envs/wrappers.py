"""Turns any Gymnasium environment that can draw itself into one of pixels and of actions in [-1, 1].

The wrappers record their arguments, as Gymnasium's do, so that an environment can be remade from its spec.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs


class PixelObservation(gymnasium.Wrapper, RecordConstructorArgs):
    """Observe the drawn frame instead of the environment's own observation.

    Observations are uint8 [3, H, W]; frames of another size are resized by area averaging, without keeping
    their aspect. A low-dimensional observation of the wrapped environment (a 1-D Box) goes to
    `info["state"]`, float32 [S], its names to `state_names`. One frame is drawn at each reset and step.

    Args:
        env: made with `render_mode="rgb_array"`.
        image_size: H and W, in pixels.
    """

    def __init__(self, env: gymnasium.Env, image_size: int) -> None:
        RecordConstructorArgs.__init__(self, image_size=image_size)
        gymnasium.Wrapper.__init__(self, env)
        self._image_size = image_size
        self._frame = np.zeros((image_size, image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, image_size, image_size), np.uint8)
        self.state_names = _state_names(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode: obs [3, H, W]."""
        state, info = self.env.reset(seed=seed, options=options)
        return self._observe(), self._with_state(info, state)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance the wrapped environment by one step: obs [3, H, W]."""
        state, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(), float(reward), terminated, truncated, self._with_state(info, state)

    def render(self) -> np.ndarray:  # type: ignore[override]  # Gymnasium also allows None and lists of frames
        """The frame last observed: uint8 [H, W, 3]."""
        return self._frame.copy()

    def _observe(self) -> np.ndarray:
        frame = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            raise ValueError(
                f"{self.env}: render() must return a uint8 array [H, W, 3], got {_describe(frame)}"
            )
        self._frame = resize_area(frame, self._image_size)
        return np.ascontiguousarray(self._frame.transpose(2, 0, 1))

    def _with_state(self, info: dict[str, Any], state: Any) -> dict[str, Any]:
        return info | {"state": np.array(state, np.float32)} if self.state_names else info


class PixelTask(gymnasium.Wrapper, RecordConstructorArgs):
    """The outside of a finished environment: says how it counts steps, and seeds its first episode.

    Args:
        env: a step of it is an agent step.
        seed: of the first reset, unless that is given one.
        action_repeat: env frames per agent step.
        max_episode_steps: agent steps in the longest episode; None if it has no limit.
    """

    def __init__(
        self, env: gymnasium.Env, seed: int, action_repeat: int, max_episode_steps: int | None
    ) -> None:
        RecordConstructorArgs.__init__(
            self, seed=seed, action_repeat=action_repeat, max_episode_steps=max_episode_steps
        )
        gymnasium.Wrapper.__init__(self, env)
        self._first_seed: int | None = seed
        self.action_repeat = action_repeat
        self.max_episode_steps = max_episode_steps
        if env.metadata.get("render_fps"):
            self.metadata = env.metadata | {"render_fps": env.metadata["render_fps"] / action_repeat}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; later resets without a seed go on with the environment's random stream."""
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        return self.env.reset(seed=seed, options=options)


def normalise_action(env: gymnasium.Env) -> gymnasium.wrappers.TransformAction:
    """Take actions float32 [A] in [-1, 1], clip them there, and scale them to the environment's own bounds.

    Raises:
        ValueError: the action space is not a Box of floats, or has no finite bounds; in `step`, an action has
            the wrong shape or is not finite.
    """
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"{_name(env)}: action space {space} is not supported; it must be a Box of floats")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"{_name(env)}: action space {space} is not supported; its bounds must be finite")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    unit_space = gymnasium.spaces.Box(-1.0, 1.0, (int(np.prod(space.shape)),), np.float32)

    def to_bounds(action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != unit_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action {action}: expected finite numbers of shape {unit_space.shape}")
        share = (np.clip(action, -1.0, 1.0).reshape(space.shape) + 1.0) / 2.0
        return (low + share * (high - low)).astype(space.dtype)

    return gymnasium.wrappers.TransformAction(env, to_bounds, unit_space)


def resize_area(image: np.ndarray, size: int) -> np.ndarray:
    """Resize by exact area averaging: uint8 [H, W, 3] → [size, size, 3]."""
    if image.shape[:2] == (size, size):
        return image
    height, width, channels = image.shape
    rows = _coverage(height, size) @ image.reshape(height, width * channels).astype(np.float32)  # [size, W·3]
    pixels = _coverage(width, size) @ rows.reshape(size, width, channels)  # [size, size, 3]
    return np.rint(pixels).astype(np.uint8)


def _coverage(before: int, after: int) -> np.ndarray:
    """Share of each old pixel in each new one along an axis: float32 [after, before], rows sum to 1."""
    edges = np.arange(after + 1) * before / after
    low = np.maximum(edges[:-1, None], np.arange(before))
    high = np.minimum(edges[1:, None], np.arange(1, before + 1))
    return (np.clip(high - low, 0.0, None) * after / before).astype(np.float32)


def _state_names(env: gymnasium.Env) -> tuple[str, ...]:
    if env.has_wrapper_attr("state_names"):
        return tuple(env.get_wrapper_attr("state_names"))
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return tuple(f"observation[{index}]" for index in range(space.shape[0]))
    return ()


def _name(env: gymnasium.Env) -> str:
    return f"gym/{env.spec.id}" if env.spec is not None else str(env)


def _describe(frame: Any) -> str:
    return f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
