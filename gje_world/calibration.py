"""What calibrates a predictor after it has learnt: how wide its beliefs are to be, and what of them lasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn

from gje_world.beliefs import Belief, ScaleMixture
from gje_world.beliefs.scale_mixture import draw_scales

NOTHING: dict[str, Any] = {"scales": [1.0], "weights": [1.0], "carried": 1.0}


class Calibration(nn.Module):
    """Corrects beliefs by what data that they were not learnt from show of them.

    Likelihood makes a predictor surer than it may be of what it has not seen, and one error in ten thousand
    is as costly as many small ones, so its regions are too wide where they are to hold half, and too narrow
    where they are to hold nearly all. A mixture over a few scales corrects both. A sampled future keeps the
    scale it has drawn: where a predictor errs by more than it thinks, it goes on to.

    Part of what a belief is unsure of is where in the embedding the next frame will lie, not what the world
    will be; a sampled future goes on from its mean and the share `carried` of what was drawn about it.

    A new one corrects nothing; in training mode none does: beliefs learn as they are.
    """

    scales: Tensor
    log_weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", torch.ones(1), persistent=False)
        self.register_buffer("log_weights", torch.zeros(1), persistent=False)
        self.reset()

    def set(self, scales: Sequence[float], weights: Sequence[float], carried: float) -> None:
        """Correct so from now on.

        Arguments:
            scales: of the beliefs, above 0.
            weights: of each, above 0 and of sum 1.
            carried: share of what is drawn about a mean that a sampled future goes on from.
        """
        device = self.scales.device
        self.scales = torch.tensor(scales, device=device)
        self.log_weights = torch.tensor([math.log(weight) for weight in weights], device=device)
        self.carried = carried
        self.told = {"scales": list(scales), "weights": list(weights), "carried": carried}

    @property
    def corrects(self) -> bool:
        """Whether it changes any belief now."""
        return not self.training and self.told != NOTHING

    def reset(self) -> None:
        """Correct nothing from now on."""
        self.set(**NOTHING)

    def forward(self, belief: Belief) -> Belief:
        """The belief, corrected; itself where nothing is to be."""
        return ScaleMixture(belief, self.scales, self.log_weights) if self.corrects else belief

    def draw_scales(self, shape: Size) -> Tensor:
        """Scales `[*shape]` for sampled futures, each of which keeps its own."""
        return draw_scales(self.scales, self.log_weights, shape)

    def get_extra_state(self) -> dict[str, Any]:
        """What it corrects, for checkpoints."""
        return self.told

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.set(**state)
