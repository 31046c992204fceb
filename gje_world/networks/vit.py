"""Vision transformers (Dosovitskiy et al., 2021), whole or on some of an image's patches."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from gje_world.networks.encoder import Features


class ViTEncoder(Features):
    """Transformer over an image's patches; the mean of the tokens it ends with is the image's feature.

    Patches have fixed sine-cosine positions (He et al., 2022) and no class token stands beside them.

    Arguments:
        patch: height and width of a patch; None: an eighth of the image, but 4 to 16 pixels.
        depth: layers of the transformer.
    """

    options: ClassVar[tuple[str, ...]] = ("patch", "depth")
    any_size = True
    width: ClassVar[int]
    heads: ClassVar[int]

    def __init__(
        self,
        channels: int,
        dim: int | None = None,
        image_size: int = 32,
        patch: int | None = None,
        depth: int = 12,
    ):
        super().__init__(channels, dim, image_size, self.width)
        self.patch = patch or patch_size(image_size)
        if image_size % self.patch:
            raise ValueError(f"patch={self.patch} must divide image_size={image_size}")
        self.depth = depth
        self.grid = image_size // self.patch
        self.embed = nn.Conv2d(channels, self.width, self.patch, stride=self.patch)
        nn.init.xavier_uniform_(self.embed.weight.data.view(self.width, -1))
        self.register_buffer("positions", sine_positions(self.grid, self.width), persistent=False)
        self.blocks = transformer(self.width, depth, self.heads)
        self.norm = nn.LayerNorm(self.width)

    positions: Tensor

    def require_fitting(self, obs: Tensor) -> None:
        """Refuses images of other channels, not square, or not cut evenly into patches.

        Raises:
            ValueError: naming their shape, and what would fit.
        """
        super().require_fitting(obs)
        height, width = obs.shape[-2:]
        if height != width or width % self.patch:
            raise ValueError(
                f"images must be square, of a multiple of patch={self.patch} pixels; got {height}x{width}"
            )

    def features(self, images: Tensor) -> Tensor:
        return self.tokens(images).mean(1)

    def tokens(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Last tokens `[N, P, F]` of normalised images `[N, C, H, W]`, of patches `kept [N, P]` alone."""
        x = self.embed(images).flatten(2).mT + self.positions_for(images)  # [N, G², F]
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return self.norm(self.blocks(x))

    def positions_for(self, images: Tensor) -> Tensor:
        """Positions `[G², F]` of the patches of images, which may be smaller or larger than `image_size`."""
        grid = images.shape[-1] // self.patch
        if grid == self.grid:
            return self.positions
        return positions_on(grid, self.width, self.positions.device).to(self.positions.dtype)

    def patches(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]` cut into their patches `[N, G², C·patch²]`, row by row."""
        cut = images.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


class ViTTinyEncoder(ViTEncoder):
    """ViT-Ti (Touvron et al., 2021): width 192, 3 heads."""

    name = "vit_tiny"
    width, heads = 192, 3


class ViTSmallEncoder(ViTEncoder):
    """ViT-S (Touvron et al., 2021): width 384, 6 heads."""

    name = "vit_small"
    width, heads = 384, 6


def transformer(width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    """`depth` pre-norm layers of self-attention, `[N, P, F] -> [N, P, F]`; a norm is to follow."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    for module in stack.modules():  # torch's stack is of copies of one layer
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
    return stack


def patch_size(image_size: int) -> int:
    """The largest divisor of `image_size` up to an eighth of it, between 4 and 16 where there is one."""
    largest = min(16, max(4, image_size // 8))
    return max(size for size in range(1, largest + 1) if image_size % size == 0)


@lru_cache(maxsize=8)
def positions_on(grid: int, width: int, device: torch.device) -> Tensor:
    """`sine_positions`, brought to the device once."""
    return sine_positions(grid, width).to(device)


def sine_positions(grid: int, width: int) -> Tensor:
    """Sines and cosines of row and column, `[grid², width]` (Vaswani et al., 2017, section 3.5, twice)."""
    frequency = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid).unsqueeze(1) * frequency  # [G, F / 4]
    wave = torch.cat([angle.sin(), angle.cos()], -1)  # [G, F / 2]
    rows, columns = wave.unsqueeze(1).expand(-1, grid, -1), wave.unsqueeze(0).expand(grid, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
