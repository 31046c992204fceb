"""Marginal terms: what keeps the embeddings' own distribution from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and biased covariance `[D, D]` of `z [..., D]` over all its leading dimensions."""
    z = z.flatten(0, -2)
    mean = z.mean(0)
    centred = z - mean
    return mean, centred.mT @ centred / z.shape[0]


def gaussian_kl(z: Tensor, ridge: float = 1e-4) -> Tensor:
    r"""Closed-form :math:`\mathrm{KL}(N(m, S + \epsilon I) \,\|\, N(0, I)) / D`, a scalar, at least 0.

    .. math:: \frac{1}{2D} (\mathrm{tr}\,S + |m|^2 - D - \log\det S)

    with :math:`m, S` the mean and covariance of the batch. Its gradient grows as the embeddings collapse:
    without bound at :math:`\epsilon = 0`, else down to a standard deviation of :math:`\sqrt\epsilon`.

    Arguments:
        z: embeddings `[..., D]`; statistics run over all leading dimensions together.
        ridge: :math:`\epsilon`, added to the diagonal of the covariance.
    """
    with torch.autocast(z.device.type, enabled=False):
        mean, covariance = moments(z.float())
        dim = covariance.shape[0]
        covariance = covariance + ridge * torch.eye(dim, device=z.device)
        # check_errors=False: the error check would make a GPU wait; a failure shows as a non-finite loss
        factor, _ = torch.linalg.cholesky_ex(covariance, check_errors=False)
        log_det = 2 * factor.diagonal().log().sum()
        return (covariance.trace() + mean.square().sum() - dim - log_det) / (2 * dim)
