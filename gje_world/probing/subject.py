"""An encoder under measurement: its embeddings, its beliefs, and its scores of how strange images are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.data import random_shift
from gje_world.evaluation.embedding import embed_images
from gje_world.evaluation.out_of_distribution import GaussianScore, entropy_score, fit_marginal
from gje_world.evaluation.scores import surprise
from gje_world.pretrained import Pretrained

VIEWS = 4  # shifted by up to an eighth of the image, held against the belief of the image as it is


class Foresight(NamedTuple):
    """What the belief said of other views of images, and what they were; each `[N]`."""

    entropy: Tensor  # predicted, nats per dimension
    surprise: Tensor  # -log-density of the other views, nats per dimension, mean over views
    error: Tensor  # mean squared distance of the other views from the belief's mean, per dimension


class Subject:
    """Embeds, projects and believes in parts, on a device; results are on the CPU.

    Arguments:
        pretrained: put into evaluation mode and on the device, and left there.
        batch_size: images at once.
        advance: called with the number of images of each batch embedded.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        advance: Callable[[int], object] = lambda count: None,
    ):
        self.pretrained, self.device, self.batch_size, self.advance = pretrained, device, batch_size, advance
        pretrained.encoder.to(device).eval()
        if pretrained.predictor is not None:
            pretrained.predictor.to(device).eval()

    @property
    def believes(self) -> bool:
        """Whether there is a belief."""
        return self.pretrained.predictor is not None

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `[N, D]` of uint8 `images [N, C, H, W]`."""
        return embed_images(
            self.pretrained.encoder,
            images,
            batch_size=self.batch_size,
            device=self.device,
            advance=self.advance,
        )

    @torch.no_grad()
    def project(self, z: Tensor) -> Tensor:
        """What beliefs are over, `[N, P]`, of `z [N, D]`; `z` itself where there is no belief."""
        if self.pretrained.predictor is None:
            return z
        parts = z.split(self.batch_size)
        return torch.cat([self.pretrained.predictor.project(part.to(self.device)).cpu() for part in parts])

    @torch.no_grad()
    def of_belief(self, measure: Callable[..., Tensor], z: Tensor, *others: Tensor) -> Tensor:
        """`measure(belief of z, *others)` in parts, `[N, ...]`, of `z [N, D]` and `others [N, ...]`."""
        measured = []
        for part, *along in zip(*(tensor.split(self.batch_size) for tensor in (z, *others)), strict=True):
            belief = self.pretrained.believe(part.to(self.device))
            assert belief is not None, "there is no belief"
            measured.append(measure(belief, *(tensor.to(self.device) for tensor in along)).cpu())
        return torch.cat(measured)

    def foresee(self, images: Tensor, z: Tensor, seed: int = 0) -> Foresight:
        """Holds the belief of each image, whose embeddings are `z`, against shifted views of it.

        The shifts are the same ones for a seed and a number of images.
        """
        surprises, errors = [], []
        for view in range(VIEWS):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed * VIEWS + view)
                shifted = random_shift(images, images.shape[-1] // 8)
            v = self.project(self.embed(shifted))
            surprises.append(self.of_belief(surprise, z, v))
            errors.append(self.of_belief(_squared_error, z, v))
        return Foresight(
            self.of_belief(entropy_score, z), torch.stack(surprises).mean(0), torch.stack(errors).mean(0)
        )

    def uncertainty(self, z_train: Tensor) -> tuple[str, Callable[[Tensor], Tensor]]:
        """A score `[N]` of uint8 images, for heatmaps, and its name: the belief's entropy where there is
        one, else the distance to the training embeddings' Gaussian."""
        if self.believes:
            return "belief entropy", lambda images: self.of_belief(entropy_score, self._quietly(images))
        marginal: GaussianScore = fit_marginal(z_train)
        return "distance to the training embeddings", lambda images: marginal(self._quietly(images))

    def _quietly(self, images: Tensor) -> Tensor:
        return embed_images(self.pretrained.encoder, images, batch_size=self.batch_size, device=self.device)


def _squared_error(belief: Belief, v: Tensor) -> Tensor:
    return (v - belief.mean).square().mean(-1)
