"""Images, views and trajectories on their way to the encoder."""

from gje_world.data.augment import random_shift, shift
from gje_world.data.clip_writer import ClipWriter
from gje_world.data.clips import ClipBatch, Clips, ClipsError, clip_batches

__all__ = ["ClipBatch", "ClipWriter", "Clips", "ClipsError", "clip_batches", "random_shift", "shift"]
