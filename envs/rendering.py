"""Frames of a dm_control simulation, drawn fast or faithfully.

Both go through dm_control's own camera and OpenGL contexts, because frames drawn by `mujoco.Renderer` beside
them in one process come out as garbage.

- `faithful` is what `physics.render` draws: shadows, reflections, fourfold multisampling.
- `fast` leaves out shadows and reflections, which cost most of the time in software, and with the shadows
  MuJoCo's per-pixel light, so that spotlit floors come out darker. It draws round bodies from fewer faces.
  Thin things (cartpole's rail, the string of ball_in_cup) break up at 64×64 without multisampling; drawing
  at twice the size and averaging 2×2 pixels keeps them and is cheaper.
"""

import mujoco
import numpy as np
from dm_control.mujoco import engine

from envs.backend import claim_drawing

_SUPERSAMPLING = 2
# MuJoCo's 28 slices and 16 stacks are made for large windows: on a body 20 pixels wide no one sees these.
_SLICES, _STACKS = 14, 8


class FrameRenderer:
    """Draws the camera view of one simulation.

    Make it before the simulation is first reset: it sets the model's visual quality, which counts only until
    the OpenGL context is made, and some tasks make that in their reset. The context belongs to the thread
    that draws first.

    Args:
        physics: the simulation; its model's visual settings are changed.
        image_size: height and width of the frames, in pixels.
        quality: `fast` or `faithful`.
        camera_id: index of a camera of the model.
    """

    def __init__(self, physics: engine.Physics, image_size: int, quality: str, camera_id: int = 0) -> None:
        self._physics = physics
        self._camera_id = camera_id
        self._fast = quality == "fast"
        self._size = image_size * (_SUPERSAMPLING if self._fast else 1)
        self._camera: engine.Camera | None = None
        visual = physics.model.vis
        if self._fast:
            visual.quality.offsamples = 0
            visual.quality.shadowsize = 0
            visual.quality.numslices, visual.quality.numstacks = _SLICES, _STACKS
            visual.global_.offwidth = visual.global_.offheight = self._size
        else:
            visual.global_.offwidth = max(visual.global_.offwidth, self._size)
            visual.global_.offheight = max(visual.global_.offheight, self._size)

    def frame(self) -> np.ndarray:
        """The current view, uint8 [H, W, 3], a new array.

        Raises:
            RuntimeError: Gymnasium's MuJoCo environments draw in this process, see `envs.backend`.
        """
        if self._camera is None:
            self._camera = self._make_camera()
        drawn = self._camera.render()
        return _halve(drawn) if self._fast else drawn.copy()

    def _make_camera(self) -> engine.Camera:
        claim_drawing("dm_control")
        camera = engine.Camera(self._physics, self._size, self._size, self._camera_id)
        if self._fast:
            camera.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            camera.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return camera


def _halve(image: np.ndarray) -> np.ndarray:
    """Average 2×2 pixels, rounding to nearest: uint8 [2H, 2W, 3] → [H, W, 3]."""
    wide = image.astype(np.uint16)
    rows = wide[0::2] + wide[1::2]
    total = rows[:, 0::2] + rows[:, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)
