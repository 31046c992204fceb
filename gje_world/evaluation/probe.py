"""Linear probe: how well is the true state read off the embedding by a linear map?"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_probe_r2(
    z_train: Tensor, y_train: Tensor, z_test: Tensor, y_test: Tensor, ridge: float = 1e-3
) -> Tensor:
    """Coefficient of determination on the test half, one for each target, shape `[S]`.

    Ridge regression on standardised embeddings, in float64 on the CPU, since some devices have none. A target
    that is constant in the test half has no variance to explain and gives NaN.

    Arguments:
        z_train, z_test: embeddings `[N, D]`, `[M, D]`.
        y_train, y_test: targets `[N, S]`, `[M, S]`.
        ridge: penalty as a share of the number of training points.
    """
    z_train, y_train, z_test, y_test = (part.cpu() for part in (z_train, y_train, z_test, y_test))
    mean, std = z_train.double().mean(0), z_train.double().std(0).clamp(min=1e-8)
    x_train, x_test = ((z.double() - mean) / std for z in (z_train, z_test))
    offset = y_train.double().mean(0)
    penalty = ridge * len(x_train) * torch.eye(x_train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x_train.mT @ x_train + penalty, x_train.mT @ (y_train.double() - offset))
    residual = (y_test.double() - offset - x_test @ weights).square().sum(0)
    total = (y_test.double() - y_test.double().mean(0)).square().sum(0)
    return torch.where(total > 1e-12, 1 - residual / total.clamp(min=1e-12), torch.nan)
