"""Embeddings of more images than fit through an encoder at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def embed_images(
    encoder: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Embeddings `[N, D]`, float32 on the CPU, of uint8 `images [N, C, H, W]`.

    The encoder is used as it is: its caller puts it into evaluation mode and on `device`.

    Arguments:
        advance: called with the number of images of each batch done.
    """
    parts = []
    for part in images.split(batch_size):
        parts.append(encoder(part.to(device)).float().cpu())
        advance(len(part))
    return torch.cat(parts)
