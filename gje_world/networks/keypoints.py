"""Image encoder of places: where in the image each of some learnt features is."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from gje_world.networks.encoder import Features
from gje_world.networks.mlp import mlp

STRIDES = 2  # stride-2 convolutions, each of which halves the image


class KeypointEncoder(Features):
    r"""Convolutions end in maps, and each map in the place where it is high: a spatial softmax.

    .. math:: (x_k, y_k) = \sum_{ij} \frac{\exp m_k(i, j)}{\sum_{i'j'} \exp m_k(i', j')}\, (j, i)

    (Finn et al., 2016, eq. 2), in units in which the outermost cells of a map are at -1 and 1. What moves is
    then told by its place, and a linear map of features that are places, as the embedding is, keeps them
    linear. A perceptron of the places, beside them, can also tell how they lie to each other, such as the
    angle of a joint. What differs elsewhere than in place, such as colour, is hardly told.

    Arguments:
        channels: input channels `C` (stacked frames included).
        dim: embedding dimension `D`; None for the places themselves, two for each map.
        image_size: height and width, a multiple of 4 and at least 8.
        width: number of maps, and channels of the convolutions but for the first, on the largest maps and so
            the dearest, which has half as many.
        hidden: width of the two layers of a perceptron of the places; 0: none.
    """

    name = "keypoints"
    options: ClassVar[tuple[str, ...]] = ("width", "hidden")
    places: Tensor

    def __init__(
        self, channels: int, dim: int | None = None, image_size: int = 64, width: int = 32, hidden: int = 0
    ):
        super().__init__(channels, dim, image_size, 2 * width + hidden)
        if image_size < 2 * 2**STRIDES or image_size % 2**STRIDES:
            least, unit = 2 * 2**STRIDES, 2**STRIDES
            raise ValueError(f"image_size must be a multiple of {unit}, at least {least}, got {image_size}")
        self.width, self.hidden = width, hidden
        layers: list[nn.Module] = []
        widths = (channels, max(1, width // 2), width, width)
        for place, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 3, stride=2 if place < STRIDES else 1, padding=1))
            layers += [nn.GroupNorm(1, after), nn.SiLU()]
        self.maps = nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))
        self.related = WithRelations(2 * width, hidden) if hidden else nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        side = torch.linspace(-1, 1, image_size // 2**STRIDES)
        self.register_buffer("places", torch.cartesian_prod(side, side).flip(-1), persistent=False)  # (x, y)

    def features(self, images: Tensor) -> Tensor:
        weights = self.maps(images).float().flatten(2).softmax(-1)  # [N, K, H*W]
        with torch.autocast(images.device.type, enabled=False):
            places = (weights @ self.places).flatten(1)
        return self.related(places)


class WithRelations(nn.Module):
    """Places, and beside them what a perceptron makes of them: `[..., P]` to `[..., P + H]`."""

    def __init__(self, places: int, hidden: int):
        super().__init__()
        self.body = mlp(places, hidden)

    def forward(self, places: Tensor) -> Tensor:
        return torch.cat([places, self.body(places)], -1)
