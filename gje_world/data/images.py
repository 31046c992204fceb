"""Images to pretrain on, in memory: uint8 pixels with what is known of them, some held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from gje_world.options import ConfigError, require_shares

DESCRIBED = 1_000  # images whose pixels tell one collection from another


@dataclass
class Images:
    """Pixels, and what they show where that is known.

    Arguments:
        pixels: uint8 `[N, C, H, W]`.
        labels: class indices `[N]`, or None.
        classes: their names.
        states: true states `[N, S]` of rendered frames, or None.
        state_names: of the state's variables.
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    states: Tensor | None = None
    state_names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def pick(self, index: Tensor) -> Images:
        """Those at `index [M]`."""
        labels = None if self.labels is None else self.labels[index]
        states = None if self.states is None else self.states[index]
        return Images(self.pixels[index], labels, self.classes, states, self.state_names)

    def spaced(self, most: int, among: Tensor | None = None) -> Images:
        """At most so many of them, or of those at the indices `among [M]`, evenly spaced."""
        count = len(self) if among is None else len(among)
        places = torch.linspace(0, count - 1, min(most, count)).long()
        return self.pick(places if among is None else among[places])


@dataclass
class Split:
    """Images to learn from, images held out, and under which terms they may be used."""

    train: Images
    test: Images
    licence: str = "unknown"

    def description(self) -> dict[str, Any]:
        """What tells these images from others: how many there are, and a digest of their classes and labels
        and of some of their pixels."""
        digest = hashlib.sha256()
        for images in (self.train, self.test):
            digest.update(images.spaced(DESCRIBED).pixels.numpy().tobytes())
            if images.labels is not None:
                digest.update(json.dumps([*images.classes]).encode() + images.labels.numpy().tobytes())
        return {"train": len(self.train), "test": len(self.test), "sha256": digest.hexdigest()}


def held_out_of(images: int, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """Indices of images to learn from and of a random `share` held out, always the same.

    Raises:
        ConfigError: there are not enough images for both.
    """
    count = round(share * images)
    if not 0 < count < images:
        raise ConfigError(f"data holds {images} images: too few to learn from and to hold some out")
    order = torch.randperm(images, generator=Generator().manual_seed(0))
    return order[count:], order[:count]


class ShuffledBatches:
    """Endless batches of pixels, epoch after epoch in a new order; a batch may reach into the next epoch.

    Batch `k` depends on the seed and `k` alone. Each rank draws its own part of it.

    Arguments:
        pixels: uint8 `[N, C, H, W]`.
        batch_size: images of a batch, over all ranks.
        seed: of the orders.
        rank, ranks: which part, of how many.

    Raises:
        ConfigError: the batch cannot be shared equally, or holds more than there are images.
    """

    def __init__(self, pixels: Tensor, batch_size: int, seed: int, rank: int = 0, ranks: int = 1):
        require_shares("batch_size", batch_size, ranks)
        if batch_size > len(pixels):
            raise ConfigError(f"batch_size={batch_size} must be at most the {len(pixels)} training images")
        self.pixels, self.batch_size, self.seed = pixels, batch_size, seed
        self.part = slice(rank * (batch_size // ranks), (rank + 1) * (batch_size // ranks))

    def __call__(self, start: int) -> Iterator[Tensor]:
        """Batches `[B, C, H, W]` from the `start`-th on."""
        count, batch = len(self.pixels), start
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        while True:
            places = torch.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
            index = torch.empty_like(places)
            for wanted in (places // count).unique().tolist():
                if wanted != epoch:
                    epoch, order = wanted, self.order(wanted)
                within = places // count == wanted
                index[within] = order[places[within] % count]
            yield self.pixels[index[self.part]]
            batch += 1

    def order(self, epoch: int) -> Tensor:
        """The images' order `[N]` in an epoch."""
        generator = Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(len(self.pixels), generator=generator)
