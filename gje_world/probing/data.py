"""What encoders are measured on: images in two parts, with what is known of them, and images unlike them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gje_world.data.image_sources import labelled
from gje_world.data.images import Split
from gje_world.data.unlike import KINDS, unlike_images
from gje_world.evaluation.classification import LEAST_POINTS
from gje_world.options import ConfigError

HELD_OUT = "held_out_classes"


@dataclass(frozen=True)
class ProbeData:
    """Images to fit probes to and images to test them on, with labels, or true states, or neither.

    Arguments:
        name: what the data are called in tables.
        train, test: uint8 `[N, C, H, W]`, `[M, C, H, W]`.
        y_train, y_test: labels, int64 `[N]`, `[M]`.
        classes: names of the labels.
        states_train, states_test: true states, `[N, S]`, `[M, S]`.
        state_names: of them.
        outside: images unlike these, by name, each uint8 `[O, C, H, W]`.
    """

    name: str
    train: Tensor
    test: Tensor
    y_train: Tensor | None = None
    y_test: Tensor | None = None
    classes: Sequence[str] = ()
    states_train: Tensor | None = None
    states_test: Tensor | None = None
    state_names: Sequence[str] = ()
    outside: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def count(self) -> int:
        """Images in all."""
        return len(self.train) + len(self.test) + sum(len(images) for images in self.outside.values())


def probe_data(split: Split, name: str, most_train: int, most_test: int) -> ProbeData:
    """At most so many images of each part of `split`, evenly spaced; where both have labels, those labelled.

    Arguments:
        name: what the data are called in tables.
    """
    known, asked = labelled(split.train), labelled(split.test)
    # a temperature takes a point of those that probes are fitted to
    if min(len(known), most_train) > LEAST_POINTS and len(asked):
        train, test = split.train.spaced(most_train, known), split.test.spaced(most_test, asked)
    else:
        train, test = split.train.spaced(most_train), split.test.spaced(most_test)
        train, test = (replace(part, labels=None, classes=()) for part in (train, test))
    return ProbeData(
        name,
        train.pixels,
        test.pixels,
        train.labels,
        test.labels,
        train.classes,
        train.states,
        test.states,
        train.state_names,
    )


def with_unlike(data: ProbeData, count: int) -> ProbeData:
    """The data with `count` noise images, textures and digits among those outside."""
    channels, side, _ = data.image_shape
    drawn = {kind: unlike_images(kind, count, channels, side) for kind in KINDS}
    return replace(data, outside=drawn | dict(data.outside))


def hold_out_classes(data: ProbeData, held_out: Sequence[str]) -> ProbeData:
    """The data without some classes; their test images are outside, as `held_out_classes`.

    Raises:
        ConfigError: there is no such class, or fewer than two would be left.
    """
    if not held_out:
        return data
    if unknown := [name for name in held_out if name not in data.classes]:
        known = ", ".join(data.classes) or "none: the data have no labels"
        raise ConfigError(
            f"held_out_classes=[{unknown[0]}] must be among the classes of data={data.name}: {known}"
        )
    left = [name for name in data.classes if name not in held_out]
    if len(left) < 2:
        raise ConfigError(
            f"held_out_classes={list(held_out)} must leave at least 2 of {len(data.classes)} classes"
        )
    assert data.y_train is not None and data.y_test is not None
    new = torch.tensor([left.index(name) if name in left else -1 for name in data.classes])
    y_train, y_test = new[data.y_train], new[data.y_test]
    return replace(
        data,
        train=data.train[y_train >= 0],
        test=data.test[y_test >= 0],
        y_train=y_train[y_train >= 0],
        y_test=y_test[y_test >= 0],
        classes=left,
        outside=dict(data.outside) | {HELD_OUT: data.test[y_test < 0]},
    )
