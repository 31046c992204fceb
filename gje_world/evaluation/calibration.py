"""Do the belief's regions hold as many points as they claim?"""

from __future__ import annotations

import torch
from torch import Tensor

NOMINAL = tuple(i / 20 for i in range(1, 20))


def standard_error(value: Tensor, cluster: Tensor) -> Tensor:
    r"""Standard error of the mean of data that go together, such as the moments of a clip, `[...]`.

    .. math:: \frac1N \sqrt{\tfrac{C}{C-1} \sum_c \big(\textstyle\sum_{i \in c} (x_i - \bar x)\big)^2}

    (Cameron and Miller, 2015, eq. 11, of a mean). NaN where there is one cluster: nothing tells how much
    another would differ.

    Arguments:
        value: `[N, ...]`.
        cluster: of each datum, any number, `[N]`.
    """
    deviation = value - value.mean(0)
    _, place = cluster.unique(return_inverse=True)
    count = int(place.max()) + 1
    sums = value.new_zeros(count, *value.shape[1:]).index_add(0, place, deviation)
    if count == 1:
        return torch.full_like(sums[0], torch.nan)
    return (count / (count - 1) * sums.square().sum(0)).sqrt() / len(value)


def observed_coverage(mass: Tensor, nominal: tuple[float, ...] = NOMINAL) -> Tensor:
    """Share of points inside the belief regions of each `nominal` probability, shape `[len(nominal)]`.

    Arguments:
        mass: `belief.coverage(target)`, any shape: the mass of the smallest region that holds each target.
        nominal: probabilities of the regions asked about.
    """
    levels = torch.tensor(nominal, device=mass.device)
    return (mass.flatten()[:, None] <= levels).float().mean(0)
