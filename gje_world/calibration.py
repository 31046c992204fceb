"""What calibrates a predictor after it has learnt: how wide its beliefs are to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn

from gje_world.beliefs import Belief, ScaleMixture
from gje_world.beliefs.scale_mixture import draw_scales

NOTHING: dict[str, Any] = {"scales": [1.0], "weights": [1.0], "later": [1.0]}


class Calibration(nn.Module):
    """Corrects beliefs by what data that they were not learnt from show of them.

    Likelihood makes a predictor surer than it may be of what it has not seen, and what it takes for noise of
    one width is of several, so its regions are too wide where they are to hold half, and too narrow where
    they are to hold nearly all. A mixture over a few scales corrects both. A sampled future keeps the scale
    it has drawn: where a predictor errs by more than it thinks, it goes on to.

    Beliefs that follow sampled embeddings take another factor beside, at each step ahead its own: a predictor
    that is calibrated one step ahead is not at the next. Errors that last from step to step come to more than
    new noise at each would, and those of details too fine to be predicted do not add up at all.

    A new one corrects nothing; in training mode none does: beliefs learn as they are. What it tells are plain
    numbers, not buffers: ranks that learn together would exchange those, and only the first of them measures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def set(self, scales: Sequence[float], weights: Sequence[float], later: Sequence[float] = (1.0,)) -> None:
        """Correct so from now on.

        Arguments:
            scales: of the beliefs, above 0.
            weights: of each, above 0 and of sum 1.
            later: factors of the scales two steps ahead, three, …, above 0; the last one beyond, too.

        Raises:
            ValueError: there is no scale, or one is not above 0, or not a weight for each, or they are no
                shares, or there is no factor, or one is not above 0.
        """
        if not later or not all(0 < factor < math.inf for factor in later):
            raise ValueError(f"later must be factors above 0, and one at least; got {list(later)}")
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales must be above 0, and one at least; got {list(scales)}")
        shares = len(scales) == len(weights) and all(weight > 0 for weight in weights)
        if not shares or not abs(sum(weights) - 1) <= 1e-4:
            raise ValueError(f"weights must be shares of the scales {list(scales)}, got {list(weights)}")
        self.told: dict[str, Any] = {"scales": [*scales], "weights": [*weights], "later": [*later]}

    def reset(self) -> None:
        """Correct nothing from now on."""
        self.set(**NOTHING)

    @property
    def corrects(self) -> bool:
        """Whether it changes any belief now."""
        return not self.training and self.told != NOTHING

    def forward(self, belief: Belief) -> Belief:
        """The belief, corrected; itself where nothing is to be."""
        return ScaleMixture(belief, *self.law(belief.mean.device)) if self.corrects else belief

    def draw_scales(self, shape: Size, device: torch.device) -> Tensor:
        """Scales `[*shape]` for sampled futures, each of which keeps its own."""
        return draw_scales(*self.law(device), shape)

    def law(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scales `[S]`, and the logarithms of their weights."""
        scales, weights = (torch.tensor(self.told[name], device=device) for name in ("scales", "weights"))
        return scales, weights.log()

    def later(self, step: int) -> float:
        """Factor of the scales of beliefs `step` steps ahead, 2 or more, which follow sampled embeddings."""
        factors = self.told["later"]
        return factors[max(0, min(step - 2, len(factors) - 1))]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={[round(value, 3) for value in told]}" for name, told in self.told.items())

    def get_extra_state(self) -> dict[str, Any]:
        """What it corrects, for checkpoints."""
        return self.told

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.set(**state)
