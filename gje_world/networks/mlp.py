"""Normalised multilayer perceptrons, alone and as an ensemble evaluated in one batched product."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALL = slice(None)


class NormedLinear(nn.Module):
    """Linear layer, then LayerNorm, then SiLU. `[..., F] -> [..., H]`."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.linear(x)))


def mlp(features: int, hidden: int, layers: int = 2) -> nn.Sequential:
    """`layers` normalised layers of width `hidden`, with no output layer: `[..., F] -> [..., H]`."""
    widths = [features] + [hidden] * layers
    return nn.Sequential(*(NormedLinear(a, b) for a, b in pairwise(widths)))


class EnsembleLinear(nn.Module):
    """`members` linear layers applied side by side, or those asked for: `[E, N, F] -> [E, N, H]`."""

    def __init__(self, members: int, features: int, out: int, *, zero: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, features, out))
        self.bias = nn.Parameter(torch.zeros(members, 1, out))
        if not zero:
            nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, members: Tensor | slice = ALL) -> Tensor:
        return torch.baddbmm(self.bias[members], x, self.weight[members])


class EnsembleMLP(nn.Module):
    """An ensemble of two-layer normalised perceptrons with a zero-initialised output layer.

    Arguments:
        members: ensemble size `E`.
        features, hidden, out: widths of input, hidden layers and output.

    Maps `[..., F]` to `[E, ..., out]`, of all members or of those asked for.
    """

    def __init__(self, members: int, features: int, hidden: int, out: int):
        super().__init__()
        self.first = EnsembleLinear(members, features, hidden)
        self.second = EnsembleLinear(members, hidden, hidden)
        self.last = EnsembleLinear(members, hidden, out, zero=True)
        self.scales = nn.Parameter(torch.ones(2, members, 1, hidden))
        self.shifts = nn.Parameter(torch.zeros(2, members, 1, hidden))

    def forward(self, x: Tensor, members: Tensor | slice = ALL) -> Tensor:
        scales, shifts = self.scales[:, members], self.shifts[:, members]
        flat = x.reshape(1, -1, x.shape[-1]).expand(scales.shape[1], -1, -1)
        for i, layer in enumerate((self.first, self.second)):
            normed = F.layer_norm(layer(flat, members), scales.shape[-1:])
            # scaled in float32 like a LayerNorm, and no wider than the layers after it
            flat = F.silu(torch.addcmul(shifts[i], normed, scales[i]).to(normed.dtype))
        out = self.last(flat, members)
        return out.unflatten(1, x.shape[:-1])


def simplicial(z: Tensor, group: int = 8) -> Tensor:
    """Softmax over consecutive groups of `group` dimensions (Lavoie et al., 2022). `[..., D] -> [..., D]`."""
    return F.softmax(z.unflatten(-1, (-1, group)), dim=-1).flatten(-2)
