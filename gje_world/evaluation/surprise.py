"""Surprise: does what cannot happen come out less likely than what does?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from gje_world.evaluation.scores import surprise
from gje_world.video_model import VideoModel

Event = Callable[[Tensor, Tensor, Tensor], Tensor]

CHUNK = 32  # clips embedded at once


def teleport(frames: Tensor, background: Tensor, elsewhere: Tensor) -> Tensor:
    """All is at once where it is in another clip."""
    return frames[elsewhere, -1]


def vanishing(frames: Tensor, background: Tensor, elsewhere: Tensor) -> Tensor:
    """What moves is gone."""
    return background.expand_as(frames[:, -1])


def reversed_time(frames: Tensor, background: Tensor, elsewhere: Tensor) -> Tensor:
    """The film turns round: in place of the next frame comes the one before the last."""
    return frames[:, -3]


EVENTS: dict[str, Event] = {
    "teleport": teleport,
    "vanishing": vanishing,
    "reversed_time": reversed_time,
}
"""What replaces the last of uint8 `frames [N, T, C, H, W]`, given the `background [C, H, W]`, and for each
clip the index of one that is `elsewhere`."""


def far_apart(group: Tensor, row: Tensor) -> Tensor:
    """Of each of `N` windows the index of one of another film or episode, or of a lone one, the farthest in
    time; of a lone window its own.

    Arguments:
        group: film or episode that each is of, `[N]`.
        row: where it begins, `[N]`.
    """
    places = torch.arange(len(group), device=group.device)
    after = (places[:, None] + places) % len(places)  # [N, N]: each itself, then those after it in turn
    other = group[after] != group[:, None]
    first = after[places, other.int().argmax(1)]
    return torch.where(other.any(1), first, (row[:, None] - row).abs().argmax(1))


@torch.no_grad()
def last_surprise(model: VideoModel, frames: Tensor, actions: Tensor) -> Tensor:
    """Minus the log-density `[N]`, in nats per dimension, of the last embedding of clips.

    Arguments:
        frames: uint8 `[N, T, C, H, W]`.
        actions: `[N, T-1, A]`.
    """
    z = torch.cat([model.embed(part) for part in frames.split(CHUNK)])
    actions = actions[:, model.frame_stack - 1 :]
    return surprise(model.believe(z[:, :-1], actions), z[:, -1])


@torch.no_grad()
def surprise_auroc(model: VideoModel, frames: Tensor, actions: Tensor, elsewhere: Tensor) -> dict[str, float]:
    """Area under the ROC curve of `last_surprise`: each impossible event against what happened, and all.

    Arguments:
        frames: uint8 `[N, T, C, H, W]`, of `N` clips.
        actions: `[N, T-1, A]`.
        elsewhere: of each clip the index of another, `[N]` (`far_apart`). Where it is its own, there is
            nowhere to go: teleports are NaN then, and left out of all.
    """
    background = frames.flatten(0, 1).float().median(0).values.to(torch.uint8)
    possible = last_surprise(model, frames, actions)
    found, impossible = {}, []
    alone = bool((elsewhere == torch.arange(len(elsewhere), device=elsewhere.device)).any())
    for name, event in EVENTS.items():
        if alone and event is teleport:
            found[name] = float("nan")
            continue
        changed = torch.cat([frames[:, :-1], event(frames, background, elsewhere).unsqueeze(1)], 1)
        impossible.append(last_surprise(model, changed, actions))
        found[name] = auroc(possible, impossible[-1])
    return found | {"all": auroc(possible, torch.cat(impossible))}


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve of scores that should be higher for the positive ones."""
    negative = torch.where(negative.isnan(), torch.inf, negative)  # what has no score finds nothing
    positive = torch.where(positive.isnan(), -torch.inf, positive)
    scores = torch.cat([negative, positive])
    truth = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))]).long().to(scores.device)
    # scores that are no probabilities would be put through a sigmoid, which rounds large ones together
    _, places = scores.unique(return_inverse=True)
    return float(binary_auroc(places / len(scores), truth))
