"""Predictors that learn nothing, to be held beside those that do."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

POOLED = 8  # side of the frames that are compared
SEEN = 3  # last frames of a context that are compared: place and velocity


def pooled_pixels(frames: Tensor) -> Tensor:
    """Frames `[B, T, C, H, W]` as vectors `[B, T, D]`: their pixels at a coarse resolution, in [0, 1]."""
    small = F.adaptive_avg_pool2d(frames.flatten(0, 1).float() / 255, POOLED)
    return small.flatten(1).unflatten(0, frames.shape[:2])


class NearestNeighbours:
    """Answers with the futures that followed the most alike contexts in the training clips.

    Arguments:
        clips: uint8 `[N, T, C, H, W]`: windows of training clips, contexts and futures together.
        horizon: frames of a window that are its future.
        embed: frames to vectors, by which contexts are compared and in which futures are told.
        neighbours: contexts among which a future is drawn, each alike.
        seed: of the draws.
    """

    def __init__(
        self,
        clips: Tensor,
        horizon: int,
        embed: Callable[[Tensor], Tensor] = pooled_pixels,
        neighbours: int = 20,
        seed: int = 0,
    ):
        self.embed, self.neighbours = embed, min(neighbours, len(clips))
        z = torch.cat([embed(part) for part in clips.split(256)])
        self.futures = z[:, -horizon:]  # [N, H, D]
        self.keys = z[:, -horizon - SEEN : -horizon].flatten(1)
        self.generator = Generator().manual_seed(seed)

    def sample(self, context: Tensor, horizon: int, count: int) -> Tensor:
        """Futures `[count, horizon, B, D]` of the nearest contexts."""
        query = self.embed(context)[:, -SEEN:].flatten(1)
        nearest = torch.cdist(query, self.keys).topk(self.neighbours, largest=False).indices  # [B, n]
        drawn = torch.randint(self.neighbours, (len(query), count), generator=self.generator)
        chosen = nearest.gather(1, drawn)  # [B, count]
        return self.futures[chosen, :horizon].permute(1, 2, 0, 3)
