"""DM Control and Gymnasium environments from pixels.

>>> import envs
>>> env = envs.make("dmc/cartpole-swingup", seed=0)
>>> obs, info = env.reset()
>>> obs.shape
(9, 64, 64)
"""

from envs.catalogue import action_repeat_for
from envs.making import make, make_vector

__all__ = ["action_repeat_for", "make", "make_vector"]
