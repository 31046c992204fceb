"""Masked autoencoder: from a quarter of an image's patches, the pixels of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder, ViTEncoder
from gje_world.networks.vit import sine_positions, transformer

HEAD = 64  # width of a decoder's attention heads


class Masked(Method):
    """What methods share that see some of an image's patches and tell of the others.

    Arguments:
        mask_ratio: share of the patches that is hidden, of which at least one is, and one is not.
        decoder_width, decoder_depth: of the transformer that tells of the hidden ones; its heads are 64 wide,
            so its width is a multiple of that. The paper has 512 and 8 for ImageNet.
        common: options of every method.
    """

    views: ClassVar[int] = 1
    needs_patches: ClassVar[bool] = True
    encoder: ViTEncoder

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.75,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        **common: Any,
    ):
        if not isinstance(encoder, ViTEncoder):
            raise ValueError("a masked method needs patches: encoder=vit_tiny or encoder=vit_small")
        if encoder.dim != encoder.width:
            raise ValueError(
                f"encoder.dim={encoder.dim} must be {encoder.width}, the width of encoder={encoder.name}, or "
                "null: a masked method learns from patches, and a map of their mean would stay untrained"
            )
        super().__init__(encoder, **common)
        if self.chunk is not None:
            raise ValueError(
                f"chunk={self.chunk} must be null: a masked method encodes few patches at a time"
            )
        self.count = encoder.grid**2
        if self.count < 2:
            raise ValueError(f"encoder.patch={encoder.patch} must leave a masked method at least 2 patches")
        self.kept = min(max(1, round(self.count * (1 - mask_ratio))), self.count - 1)
        if decoder_width % HEAD:
            raise ValueError(f"method.decoder_width={decoder_width} must be a multiple of {HEAD}")
        self.enter = nn.Linear(encoder.width, decoder_width)
        self.blank = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.register_buffer("places", sine_positions(encoder.grid, decoder_width), persistent=False)
        self.decoder = transformer(decoder_width, decoder_depth, decoder_width // HEAD)
        self.norm = nn.LayerNorm(decoder_width)
        self.tell_pixels = nn.Linear(decoder_width, encoder.channels * encoder.patch**2)

    places: Tensor

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """For each of `images [N, ...]` indices of the patches seen `[N, P]` and of those hidden `[N, M]`."""
        order = torch.rand(len(images), self.count, device=images.device).argsort(1)
        return order[:, : self.kept], order[:, self.kept :]

    def decode(self, tokens: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Features `[N, M, W]` of the hidden patches from the `tokens [N, P, F]` of those seen."""
        known = self.enter(tokens) + self.places[seen]
        asked = self.blank + self.places[hidden]
        return self.norm(self.decoder(torch.cat([known, asked], 1)))[:, seen.shape[1] :]

    def pixel_targets(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Pixels `[N, M, C·patch²]` of the hidden patches, each standardised (He et al., 2022, 4.1)."""
        patches = self.encoder.patches(images)
        target = patches.gather(1, hidden.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        variance, mean = torch.var_mean(target, -1, keepdim=True)
        return (target - mean) / (variance + 1e-6).sqrt()


class MAE(Masked):
    r"""Squared error of the hidden patches' standardised pixels (He et al., 2022, section 3).

    .. math:: L = \frac{1}{M} \sum_{p\ \mathrm{hidden}} \frac{1}{C s^2} \|\hat x_p - \bar x_p\|^2

    Arguments:
        common: options of every masked method.
    """

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.encoder.pixels(views[0].flatten(0, 1))
        seen, hidden = self.split(images)
        tokens = self.encoder.tokens(images, seen)
        told = self.tell_pixels(self.decode(tokens, seen, hidden)).float()
        loss = (told - self.pixel_targets(images, hidden)).square().mean()
        return loss, spread(tokens.mean(1))
