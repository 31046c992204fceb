"""Clips embedded once: what a predictor learns from while its encoder rests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gje_world.data.clips import ClipBatch, Clips
from gje_world.video_model import VideoModel

FRAMES_AT_ONCE = 256  # read from the disk and embedded
PICTURED = (
    8  # clips of a batch whose frames come along: the decoder is for looking only, and may not cost much
)


class EmbeddedBatch(NamedTuple):
    """Windows of `T` embeddings, batch first."""

    z: Tensor  # [B, T, D]
    actions: Tensor  # [B, T-1, A], between the embeddings
    frames: Tensor  # uint8 [b, T, C, H, W]: of the first few windows, the newest that each embedding is of


class EmbeddedClips:
    """Embeddings of all observations of clips, in memory: 4 `D` bytes a frame.

    Arguments:
        clips: what is embedded.
        model: by whose encoder.
        stride: rows of the clips from one frame to the next.
        check: called now and then; may raise to leave.
    """

    @torch.no_grad()
    def __init__(self, clips: Clips, model: VideoModel, stride: int, check: Callable[[], None]):
        self.clips, self.stride = clips, stride
        self.before = (model.frame_stack - 1) * stride  # rows of an observation before its newest
        device = model.offset.device
        self.z = torch.zeros(int(clips.intervals.max(initial=0)), model.dim)
        for first, end in clips.intervals:
            for phase in range(first, min(first + stride, end)):  # the frames that stand `stride` rows apart
                count = -(-(end - phase) // stride)
                for start in range(0, count - model.frame_stack + 1, FRAMES_AT_ONCE):
                    length = min(FRAMES_AT_ONCE + model.frame_stack - 1, count - start)
                    row = phase + start * stride
                    frames = clips.frames_at(np.array([row]), length, stride).to(device)
                    with model.autocast():  # in training too: as they are embedded where they are measured
                        z = model.embed(frames)[0].float().cpu()
                    self.z[row + self.before : row + self.before + len(z) * stride : stride] = z
                    check()

    def sample(self, generator: np.random.Generator, batch: int, length: int) -> EmbeddedBatch:
        """`batch` windows of `length` embeddings, drawn as `Clips.sample` draws those of their frames."""
        stride = self.stride
        newest = self.before + self.clips.draw(generator, batch, length + self.before // stride, stride)
        rows = torch.from_numpy(newest)[:, None] + stride * torch.arange(length)
        actions = self.clips.actions_at(newest, length, stride)
        return EmbeddedBatch(self.z[rows], actions, self.clips.frames_at(newest[:PICTURED], length, stride))


def learning_batches(
    clips: Clips,
    model: VideoModel,
    seed: int,
    batch: int,
    length: int,
    stride: int,
    resting: int,
    check: Callable[[], None],
) -> Callable[[int], Iterator[ClipBatch | EmbeddedBatch]]:
    """Batches for training, `batches(start)` from the `start`-th on: of frames, then of embeddings.

    A batch depends on the clips, the encoder at rest, the seed and its number alone, so training that is
    resumed needs no loader's state.

    Arguments:
        length: embeddings of a window.
        resting: the first batch that is drawn when the encoder has come to rest.
        check: as `EmbeddedClips` takes it.
    """

    def batches(start: int) -> Iterator[ClipBatch | EmbeddedBatch]:
        for number in range(start, resting):
            generator = np.random.default_rng([seed, number])
            yield clips.sample(generator, batch, model.frame_stack - 1 + length, stride)
        embedded = EmbeddedClips(clips, model, stride, check)
        number = max(start, resting)
        while True:
            yield embedded.sample(np.random.default_rng([seed, number]), batch, length)
            number += 1

    return batches
