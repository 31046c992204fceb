"""A pretrained encoder as a world model takes it: frame by frame where it must be, and mapped to D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gje_world.networks.encoder import Encoder


class AdaptedEncoder(nn.Module):
    """The embeddings of a pretrained encoder, through a linear map that is learnt in any case.

    An encoder of single frames embeds each frame of a stack, and the map takes all these embeddings. Where
    nothing is to be adapted, it begins as the identity. It is what a frozen encoder leaves to learn: the
    embeddings of a world must be able to spread and to turn towards what is predictable, or the marginal term
    would have nothing to act on.

    The pretrained encoder stays in evaluation mode: a batch of an agent, which is one observation while it
    acts, must not change its batch statistics.

    Arguments:
        encoder: the pretrained one, of the stack's channels or of a divisor of them.
        channels: `C` of the stacked frames.
        dim: embedding dimension `D` of the world model.
        frozen: no gradient reaches the pretrained weights.

    Raises:
        ValueError: the encoder takes neither the stack nor a frame of it.
    """

    def __init__(self, encoder: Encoder, channels: int, dim: int, *, frozen: bool):
        super().__init__()
        if channels % encoder.channels:
            raise ValueError(f"an encoder of {encoder.channels} channels cannot embed stacks of {channels}")
        self.channels, self.dim, self.image_size = channels, dim, encoder.image_size
        self.frozen = frozen
        self.pretrained = encoder.requires_grad_(not frozen)
        features = encoder.dim * (channels // encoder.channels)
        self.project = nn.Linear(features, dim)
        if features == dim:
            nn.init.eye_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.train(self.training)

    def train(self, mode: bool = True) -> AdaptedEncoder:
        """As any module's, but for the pretrained part, which stays in evaluation mode."""
        super().train(mode)
        self.pretrained.eval()
        return self

    def centre_on(self, obs: Tensor) -> None:
        """Does nothing: the pixels are normalised as they were in pretraining."""

    def forward(self, obs: Tensor) -> Tensor:
        """Embed uint8 `[..., C, H, W]` as float32 `[..., D]`."""
        frames = obs.unflatten(-3, (-1, self.pretrained.channels))  # [..., K, c, H, W]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.pretrained(frames).flatten(-2)
        return self.project(features).float()
