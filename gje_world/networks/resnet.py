"""Residual networks (He et al., 2016) for images, with a stem for small ones."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gje_world.networks.encoder import Features

SMALL = 64  # pixels up to which the stem leaves the image its size
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # blocks of each


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


def conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride, without bias: a norm follows."""
    layer = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Block(nn.Module):
    """Convolutions around which the input passes unchanged, or through a 1x1 convolution where sizes change.

    Arguments:
        before, after: channels of input and output.
        stride: of the first 3x3 convolution.
        bottleneck: 1x1, 3x3 and 1x1 convolutions, the first two a fourth as wide; else two of 3x3.
    """

    def __init__(self, before: int, after: int, stride: int, bottleneck: bool):
        super().__init__()
        if bottleneck:
            inner = after // 4
            layers = [conv(before, inner, 1), norm(inner), nn.ReLU(inplace=True)]
            layers += [conv(inner, inner, 3, stride), norm(inner), nn.ReLU(inplace=True)]
            layers += [conv(inner, after, 1), norm(after)]
        else:
            layers = [conv(before, after, 3, stride), norm(after), nn.ReLU(inplace=True)]
            layers += [conv(after, after, 3), norm(after)]
        self.residual = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(conv(before, after, 1, stride), norm(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class ResNetEncoder(Features):
    """ResNet-18 or -50, its last features averaged over the image.

    Images up to 64 pixels keep their size in the stem, a 3x3 convolution of stride 1 without pooling, as
    SimCLR (Chen et al., 2020, appendix B.9) has it for CIFAR; larger ones meet the 7x7 convolution and the
    pooling of the paper.

    Arguments:
        depth: 18 or 50.
        width: channels of the first stage; each later one has twice as many.
    """

    options: ClassVar[tuple[str, ...]] = ("width",)
    any_size = True
    depth: ClassVar[int]

    def __init__(self, channels: int, dim: int | None = None, image_size: int = 32, width: int = 64):
        bottleneck = self.depth >= 50
        expansion = 4 if bottleneck else 1
        super().__init__(channels, dim, image_size, 8 * width * expansion)
        self.width = width
        small = image_size <= SMALL
        layers: list[nn.Module] = [conv(channels, width, 3 if small else 7, 1 if small else 2)]
        layers += [norm(width), nn.ReLU(inplace=True)]
        if not small:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        before = width
        for stage, blocks in enumerate(STAGES[self.depth]):
            after = 2**stage * width * expansion
            for block in range(blocks):
                layers.append(Block(before, after, 2 if stage and not block else 1, bottleneck))
                before = after
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((-2, -1))


class ResNet18Encoder(ResNetEncoder):
    """ResNet-18: 512 features."""

    name = "resnet18"
    depth = 18


class ResNet50Encoder(ResNetEncoder):
    """ResNet-50: 2048 features."""

    name = "resnet50"
    depth = 50
