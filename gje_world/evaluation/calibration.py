"""Do the belief's regions hold as many points as they claim?"""

from __future__ import annotations

import torch
from torch import Tensor

NOMINAL = tuple(i / 20 for i in range(1, 20))


def observed_coverage(mass: Tensor, nominal: tuple[float, ...] = NOMINAL) -> Tensor:
    """Share of points inside the belief regions of each `nominal` probability, shape `[len(nominal)]`.

    Arguments:
        mass: `belief.coverage(target)`, any shape: the mass of the smallest region that holds each target.
        nominal: probabilities of the regions asked about.
    """
    levels = torch.tensor(nominal, device=mass.device)
    return (mass.flatten()[:, None] <= levels).float().mean(0)
