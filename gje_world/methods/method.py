"""What every method of pretraining is: views of images in, a loss out, an encoder left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from gje_world.networks import Encoder
from gje_world.predictor import ViewPredictor
from gje_world.training.engine import Learner


class Method(Learner):
    """A learner of views, which owns the encoder and whatever else its loss needs.

    Its `forward` takes groups of views, each group of one size, `[V, B, C, H, W]`, pixels from 0 to 255. The
    first group is what most methods look at. Batch statistics run over all views of a group together, and
    over all ranks (`gje_world.methods.batch_norm`).

    Arguments:
        encoder: what is pretrained.
        updates: gradient steps of the whole run, which schedules run along.
        chunk: images encoded at once; None: all. The loss is that of the whole batch still, and so are its
            gradients: embeddings are kept, and each chunk is encoded once more on the way back, as in
            GradCache (Gao et al., 2021). An encoder's batch normalisation sees a chunk at a time.
    """

    views: ClassVar[int] = 2  # in the first group
    takes_local_views: ClassVar[bool] = False  # whether it looks at a second group, of small crops
    needs_patches: ClassVar[bool] = False  # whether the encoder must be a ViT

    def __init__(self, encoder: Encoder, updates: int, chunk: int | None = None):
        super().__init__()
        self.encoder, self.updates, self.chunk = encoder, updates, chunk

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of groups of views, and detached metrics."""
        raise NotImplementedError

    def centre_on(self, obs: Tensor) -> None:
        """Take what pixels are normalised by from `obs`, uint8 `[N, C, H, W]`; call once, before training.

        Moving averages too, which `follow` moves no buffers of: they would see other images than the encoder.
        """
        for module in self.modules():
            if isinstance(module, Encoder):
                module.centre_on(obs)

    def encode(self, views: Tensor, encoder: nn.Module | None = None) -> Tensor:
        """Embeddings `[V, B, D]` of `views [V, B, C, H, W]`, by its own encoder or another."""
        encode: Callable[[Tensor], Tensor] = encoder or self.encoder
        images = views.flatten(0, 1)
        if self.chunk is None or len(images) <= self.chunk:
            z = encode(images)
        else:
            # recomputing a chunk when its gradient comes is what GradCache does by hand
            parts = images.split(self.chunk)
            contexts = partial(encoded_again, self)
            z = torch.cat([checkpoint(encode, x, use_reentrant=False, context_fn=contexts) for x in parts])
        return z.unflatten(0, views.shape[:2])

    def progress(self, update: int) -> float:
        """Share of the run that is done before `update`, from 0 to 1."""
        return min(1.0, update / max(1, self.updates))

    @property
    def exported(self) -> Encoder:
        """The encoder that is measured and left behind: its own, unless a paper has another."""
        return self.encoder

    @property
    def predictor(self) -> ViewPredictor | None:
        """What learnt to believe beside the encoder, to be exported with it; None where nothing did."""
        return None


def encoded_again(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """What a chunk is encoded in at first, and once more: there running statistics have seen it already.

    It falls to copies of them: a checkpoint must be recomputed by the same operations.
    """

    @contextmanager
    def again() -> Iterator[None]:
        kept = [
            (norm, dict(norm.named_buffers(recurse=False)))
            for norm in module.modules()
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        ]
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        try:
            yield
        finally:
            for norm, buffers in kept:
                for name, buffer in buffers.items():
                    setattr(norm, name, buffer)

    return nullcontext(), again()


def moving_average(module: nn.Module) -> AveragedModel:
    """A copy of `module` without gradient, to be drawn after it by `follow`."""
    average = AveragedModel(module, use_buffers=False)
    average.requires_grad_(False)
    return average


@torch.no_grad()
def follow(average: AveragedModel, module: nn.Module, momentum: float) -> None:
    """Move the average's parameters towards the module's, keeping a share `momentum` of what they were.

    Buffers are its own: batch statistics of its own outputs, as in the published code of BYOL and DINO.
    """
    for own, towards in zip(average.module.parameters(), module.parameters(), strict=True):
        own.lerp_(towards, 1 - momentum)


def rising(start: float, progress: float) -> float:
    """A momentum that rises from `start` to 1 along a half cosine (Grill et al., 2020, section 3.2)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def spread(z: Tensor) -> dict[str, Tensor]:
    """The gauge of collapse that costs nothing: root mean variance of `z [..., D]` over dimensions."""
    return {"embedding/std": z.detach().float().flatten(0, -2).var(0).mean().sqrt()}
