"""Images, views and trajectories on their way to the encoder."""

from gje_world.data.augment import random_shift, shift
from gje_world.data.clip_writer import ClipWriter
from gje_world.data.clips import ClipBatch, Clips, ClipsError

__all__ = ["ClipBatch", "ClipWriter", "Clips", "ClipsError", "random_shift", "shift"]
