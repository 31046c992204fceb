"""Images, views and trajectories on their way to the encoder."""

from gje_world.data.augment import random_shift

__all__ = ["random_shift"]
