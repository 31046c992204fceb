"""An encoder under measurement: its embeddings, its beliefs, and its scores of how strange images are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.data import random_shift
from gje_world.data.views import AugmentConfig, Views
from gje_world.evaluation.embedding import embed_images
from gje_world.evaluation.out_of_distribution import GaussianScore, entropy_score, fit_marginal
from gje_world.evaluation.scores import surprise
from gje_world.options import ConfigError
from gje_world.pretrained import Pretrained
from gje_world.training.random_state import forked

PAIRS = 4  # of views of an image, the one held against the belief of the other
DRAWN_AT_ONCE = 256  # images whose views are drawn together: the numbers drawn for one depend on it


class Foresight(NamedTuple):
    """What the belief said of other views of images, and what they were; each `[N]`."""

    entropy: Tensor  # predicted from the views held against the others, nats per dimension, mean over pairs
    surprise: Tensor  # -log-density of the other views, nats per dimension, mean over pairs
    error: Tensor  # mean squared distance of the other views from the belief's mean, per dimension
    epistemic: Tensor | None  # how far an ensemble's members disagree on the image as it is; None of others


def belief_name(pretrained: Pretrained) -> str | None:
    """Name of the belief beside an encoder; None where there is none."""
    if pretrained.predictor is None:
        return None
    belief: Any = pretrained.predictor.architecture["belief"]
    return belief["name"]


def has_density(pretrained: Pretrained) -> bool:
    """Whether there is a belief, and one with a density: a point has neither entropy nor surprise."""
    return belief_name(pretrained) not in (None, "point")


def training_views(pretrained: Pretrained) -> Views | None:
    """How the pairs of views were drawn that the belief was learnt on; None where the export does not say.

    Raises:
        ConfigError: it says what cannot be.
    """
    said = pretrained.provenance.get("augment")
    if said is None:
        return None
    try:
        config = AugmentConfig(**said)
        config.check()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the encoder's provenance has an augment that cannot be: {error}") from error
    return Views(replace(config, local_views=0), 2, pretrained.encoder.image_size)


def embedded_views(pretrained: Pretrained) -> int:
    """Views of an image that `Subject.foresee` embeds."""
    return PAIRS * (1 if training_views(pretrained) is None else 2)


class Subject:
    """Embeds, projects and believes in parts, on a device; results are on the CPU.

    Arguments:
        pretrained: put into evaluation mode and on the device, and left there.
        batch_size: images at once.
        advance: called with the number of images of each batch embedded.

    Raises:
        ConfigError: the export says of its views what cannot be.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        advance: Callable[[int], object] = lambda count: None,
    ):
        self.pretrained, self.batch_size, self.advance = pretrained, batch_size, advance
        self.device, self.views = torch.device(device), training_views(pretrained)
        self.believes = has_density(pretrained)
        pretrained.encoder.to(device).eval()
        if pretrained.predictor is not None:
            pretrained.predictor.to(device).eval()

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `[N, D]` of `images [N, C, H, W]`, pixels from 0 to 255."""
        return embed_images(
            self.pretrained.encoder,
            images,
            batch_size=self.batch_size,
            device=self.device,
            advance=self.advance,
        )

    @torch.no_grad()
    def project(self, z: Tensor) -> Tensor:
        """What beliefs are over, `[N, P]`, of `z [N, D]`."""
        assert self.pretrained.predictor is not None, "there is no belief"
        parts = z.split(self.batch_size)
        return torch.cat([self.pretrained.predictor.project(part.to(self.device)).cpu() for part in parts])

    @torch.no_grad()
    def of_belief(self, measure: Callable[..., Tensor], z: Tensor, *others: Tensor) -> Tensor:
        """`measure(belief of z, *others)` in parts, `[N, ...]`, of `z [N, D]` and `others [N, ...]`.

        Random numbers are the same each time: a Monte Carlo estimate can be repeated, and its noise cancels
        where two versions of an image are compared.
        """
        measured = []
        with forked(self.device, 0):
            for part, *along in zip(*(tensor.split(self.batch_size) for tensor in (z, *others)), strict=True):
                belief = self.pretrained.believe(part.to(self.device))
                assert belief is not None, "there is no belief"
                measured.append(measure(belief, *(tensor.to(self.device) for tensor in along)).cpu())
        return torch.cat(measured)

    def entropy(self, z: Tensor) -> Tensor:
        """Entropy `[N]` of the beliefs from `z [N, D]`, nats per dimension."""
        return self.of_belief(entropy_score, z)

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the beliefs from `z [N, D]`, each `[N, P]`."""
        both = self.of_belief(lambda belief: torch.stack([belief.mean, belief.variance], -1), z)
        return both[..., 0], both[..., 1]

    def epistemic(self, z: Tensor) -> Tensor | None:
        """Variance `[N]` of an ensemble's means from `z [N, D]`, mean over dimensions; None of others."""
        if belief_name(self.pretrained) != "ensemble":
            return None
        return self.of_belief(lambda belief: belief.epistemic.mean(-1), z)

    def foresee(self, images: Tensor, z: Tensor) -> Foresight:
        """Holds beliefs of views of each image, whose embeddings are `z`, against other views of it.

        Both are drawn as in training; where the export does not say how, it is the image as it is against
        views shifted by up to an eighth. For a number of images the views are always the same.
        """
        entropies, surprises, errors = [], [], []
        for seed in range(PAIRS):
            context, target = self.pair(images, z, seed)
            v = self.project(target)
            entropies.append(self.entropy(context))
            surprises.append(self.of_belief(surprise, context, v))
            errors.append(self.of_belief(_squared_error, context, v))
        entropy, surprise_, error = (torch.stack(each).mean(0) for each in (entropies, surprises, errors))
        return Foresight(entropy, surprise_, error, self.epistemic(z))

    def pair(self, images: Tensor, z: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Embeddings `[N, D]` of two views of each image, whose own embeddings are `z`."""
        with forked(torch.device("cpu"), seed):  # there too on a GPU: the same views everywhere
            if self.views is None:
                return z, self.embed(random_shift(images, images.shape[-1] // 8))
            embedded = [
                [self.embed(view) for view in self.views(part)[0]] for part in images.split(DRAWN_AT_ONCE)
            ]
        context, target = (torch.cat(parts) for parts in zip(*embedded, strict=True))
        return context, target

    def uncertainty(self, z_train: Tensor) -> tuple[str, Callable[[Tensor], Tensor]]:
        """A score `[N]` of uint8 images, for heatmaps, and its name: the belief's entropy where there is
        one, else the distance to the training embeddings' Gaussian."""
        if self.believes:
            return "belief entropy", lambda images: self.entropy(self._quietly(images))
        marginal: GaussianScore = fit_marginal(z_train)
        return "distance to the training embeddings", lambda images: marginal(self._quietly(images))

    def _quietly(self, images: Tensor) -> Tensor:
        return embed_images(self.pretrained.encoder, images, batch_size=self.batch_size, device=self.device)


def _squared_error(belief: Belief, v: Tensor) -> Tensor:
    return (v - belief.mean).square().mean(-1)
