"""Marginal terms: what keeps the embeddings' own distribution from collapsing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gje_world.beliefs.gaussian import cholesky, lifted
from gje_world.objectives.statistics import RIDGE, agree, mean_over_ranks, moments

SLICES = 256  # directions that SIGReg looks along, drawn anew each time
COVARIANCE_SHARE = 1 / 25  # of VICReg's covariance term beside its variance term


def gaussian_kl(z: Tensor, ridge: float = RIDGE) -> Tensor:
    r"""Closed-form :math:`\mathrm{KL}(N(m, S + \epsilon I) \,\|\, N(0, I)) / D`, a scalar, at least 0.

    .. math:: \frac{1}{2D} (\mathrm{tr}\,S + |m|^2 - D - \log\det S)

    with :math:`m, S` the mean and covariance of the batch. Its gradient grows as the embeddings collapse:
    without bound at :math:`\epsilon = 0`, else down to a standard deviation of :math:`\sqrt\epsilon`.

    Arguments:
        z: embeddings `[..., D]`; statistics run over all leading dimensions together.
        ridge: :math:`\epsilon`, added to the diagonal of the covariance.
    """
    mean, covariance = moments(z)
    dim = z.shape[-1]
    covariance = lifted(covariance, ridge)
    log_det = 2 * cholesky(covariance).diagonal().log().sum()
    return (covariance.trace() + mean.square().sum() - dim - log_det) / (2 * dim)


def sigreg(z: Tensor) -> Tensor:
    r"""Sketched isotropic Gaussian regulariser (LeJEPA; Balestriero and LeCun, 2025, algorithm 1), a scalar.

    .. math:: \frac1K \sum_k \int \big|\hat\varphi_{a_k}(t) - e^{-t^2/2}\big|^2 e^{-t^2/2}\,dt

    with :math:`\hat\varphi_a` the empirical characteristic function of the embeddings along a random unit
    vector :math:`a` (the statistic of Epps and Pulley, 1983). The paper's is larger by the batch size, which
    here would make the term's weight depend on it. It has no gradient where all embeddings are one point.

    Arguments:
        z: embeddings `[..., D]`; statistics run over all leading dimensions together.
    """
    z = z.flatten(0, -2)
    directions = F.normalize(agree(torch.randn(z.shape[-1], SLICES, dtype=z.dtype, device=z.device)), dim=0)
    # the integrand is even: the positive half of the paper's 17 points from -5 to 5, enough for embeddings
    # less than about 5 apart
    t = torch.linspace(0, 5, 9, dtype=z.dtype, device=z.device)
    normal = (-0.5 * t.square()).exp()
    angle = (z @ directions).unsqueeze(-1) * t  # [N, K, 9]
    real, imaginary = mean_over_ranks(torch.stack([angle.cos().mean(0), angle.sin().mean(0)]))
    distance = (real - normal).square() + imaginary.square()
    return 2 * torch.trapezoid(distance * normal, t).mean()


def variance_covariance(z: Tensor) -> Tensor:
    r"""Variance and covariance terms of VICReg (Bardes et al., 2022, eqs. 1-4), a scalar.

    .. math:: \frac1D \sum_j \max\big(0, 1 - \sqrt{S_{jj} + \epsilon}\big)
        + \frac{1}{25 D} \sum_{i \ne j} S_{ij}^2

    The ratio of the two is the paper's.

    Arguments:
        z: embeddings `[..., D]`; statistics run over all leading dimensions together.
    """
    _, covariance = moments(z)
    variances = covariance.diagonal()
    spread = (1 - (variances + RIDGE).sqrt()).clamp(min=0).mean()
    across = (covariance.square().sum() - variances.square().sum()) / z.shape[-1]
    return spread + COVARIANCE_SHARE * across


def none(z: Tensor) -> Tensor:
    """No marginal term."""
    return z.new_zeros(())


MARGINALS: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian_kl": gaussian_kl,
    "sigreg": sigreg,
    "variance_covariance": variance_covariance,
    "none": none,
}
