"""Gaussian Joint Embeddings: encoders and latent dynamics whose predictions are beliefs."""

from gje_world.pretrained import load_encoder, load_pretrained
from gje_world.video.exported import load_decoder, load_video_model
from gje_world.world_model import WorldModel, WorldModelConfig

__all__ = [
    "WorldModel",
    "WorldModelConfig",
    "load_decoder",
    "load_encoder",
    "load_pretrained",
    "load_video_model",
]
