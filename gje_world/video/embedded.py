"""Clips embedded once: what a predictor learns from while its encoder rests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gje_world.data.clips import ClipBatch, Clips
from gje_world.video_model import VideoModel

AT_ONCE = 256  # observations embedded
PICTURED = 8  # clips of a batch that come with frames, for the decoder: it is for looking only


class EmbeddedBatch(NamedTuple):
    """Windows of `T` embeddings, batch first."""

    z: Tensor  # [B, T, D]
    actions: Tensor  # [B, T-1, A], between the embeddings
    frames: Tensor  # uint8 [b, T, C, H, W]: of the first few windows, the newest that each embedding is of


class EmbeddedClips:
    """Embeddings of all observations of clips, in memory: 4 `D` bytes each.

    Arguments:
        clips: what is embedded.
        model: by whose encoder, at the precision that it is measured at.
        stride: rows of the clips from one frame to the next.
        check: called now and then; may raise to leave.
    """

    @torch.no_grad()
    def __init__(self, clips: Clips, model: VideoModel, stride: int, check: Callable[[], None]):
        self.clips, self.stride = clips, stride
        self.before = (model.frame_stack - 1) * stride  # rows of an observation before its newest
        whole = [np.arange(first + self.before, end) for first, end in clips.intervals]
        self.rows = np.sort(np.concatenate(whole))  # of the newest frames of observations
        self.z = torch.empty(len(self.rows), model.dim)
        for start in range(0, len(self.rows), AT_ONCE):
            newest = self.rows[start : start + AT_ONCE]
            frames = clips.frames_at(newest - self.before, model.frame_stack, stride).to(model.offset.device)
            with model.autocast():
                self.z[start : start + len(newest)] = model.embed(frames)[:, 0].float().cpu()
            check()

    def sample(self, generator: np.random.Generator, batch: int, length: int) -> EmbeddedBatch:
        """`batch` windows of `length` embeddings, drawn as `Clips.sample` draws those of their frames."""
        stride = self.stride
        newest = self.before + self.clips.draw(generator, batch, length + self.before // stride, stride)
        places = np.searchsorted(self.rows, newest[:, None] + stride * np.arange(length))
        actions = self.clips.actions_at(newest, length, stride)
        frames = self.clips.frames_at(newest[:PICTURED], length, stride)
        return EmbeddedBatch(self.z[torch.from_numpy(places)], actions, frames)


def learning_batches(
    clips: Clips,
    model: VideoModel,
    seed: int,
    batch: int,
    length: int,
    stride: int,
    together: int,
    phases: tuple[int, int],
    check: Callable[[], None],
) -> Callable[[int], Iterator[ClipBatch | EmbeddedBatch]]:
    """Batches for training, `batches(start)` from the `start`-th on: of frames, and once the encoder rests of
    embeddings, unless there are more observations than would be learnt from.

    A batch depends on the clips, the encoder at rest, the seed and its number alone, so training that is
    resumed needs no loader's state.

    Arguments:
        length: embeddings of a window.
        together: windows of one episode side by side, while the encoder learns.
        phases: batches in which the encoder learns, and in which it rests.
        check: as `EmbeddedClips` takes it.
    """

    def batches(start: int) -> Iterator[ClipBatch | EmbeddedBatch]:
        learning, resting = phases
        worth = len(clips) <= resting * batch * length
        embedded, number = None, start
        while True:
            generator = np.random.default_rng([seed, number])
            if number < learning or not worth:
                frames, of_one = model.frame_stack - 1 + length, together if number < learning else 1
                yield clips.sample(generator, batch, frames, stride, of_one)
            else:
                if embedded is None:
                    print(f"the encoder rests: {len(clips):,} frames are embedded once", file=sys.stderr)
                    embedded = EmbeddedClips(clips, model, stride, check)
                yield embedded.sample(generator, batch, length)
            number += 1

    return batches
