"""Joint Gaussian Joint Embeddings: one Gaussian over both embeddings of a pair, with the batch's moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gje_world.beliefs import CovarianceGaussian
from gje_world.beliefs.gaussian import LOG_2PI, cholesky
from gje_world.objectives.coupled import Coupled
from gje_world.objectives.objective import require, require_one_of
from gje_world.objectives.statistics import RIDGE, moments

SMALLEST_VARIANCE = 1e-24  # of a dimension that is not held to be constant
FORMS = ("scale_free", "conditional", "primal")


class JointGJE(Coupled):
    r"""Likelihood under :math:`[z_c; z_t] \sim N(m, \Sigma)` (arXiv 2603.26799, joint form).

    With the batch's own :math:`m` and :math:`\Sigma` the mean Mahalanobis distance is the constant
    :math:`2D`, and gives the encoder no gradient: the *Mahalanobis trace trap*. Of each `form` is left

    - `primal`, :math:`-\log p(z_c, z_t)`: :math:`\frac12 \log\det\Sigma`, least where all collapses. To
      study.
    - `conditional`, :math:`-\log p(z_t \mid z_c)`: :math:`\frac12 \log\det\Sigma_{t|c}`, least where the
      target collapses, which the marginal term must forbid.
    - `scale_free`, :math:`-\log p(z_c, z_t) + \log p(z_c) + \log p(z_t)`, minus the mutual information of
      the two under the Gaussian: :math:`\frac12 \sum_j \log(1 - \rho_j^2)` of the canonical correlations,
      which no scaling changes.

    Correlations of a batch not far larger than `D` saturate: all seem predictable. Shrinkage towards the
    diagonal (Ledoit and Wolf, 2004, with a diagonal target) bounds them below 1, by
    :math:`\lambda (1 - s) / (\lambda (1 - s) + s)` with :math:`\lambda` the largest eigenvalue of either's
    own correlations, and as it keeps the variances the scale-free form stays so.

    Arguments:
        form: which of the three.
        shrinkage: :math:`s` of the covariance towards its diagonal, between 0 and 1.
        common: options of every coupled objective.
    """

    name = "gje_joint"

    def __init__(self, dim: int, *, form: str = "scale_free", shrinkage: float = 0.1, **common: Any):
        super().__init__(dim, **common)
        require_one_of("form", form, FORMS)
        require(0 <= shrinkage < 1, "shrinkage", shrinkage, "at least 0 and below 1")
        self.form, self.shrinkage = form, shrinkage

    def couple(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        mean, covariance = joint_moments(z_context, z_target, self.shrinkage)
        context, target = slice(None, self.dim), slice(self.dim, None)
        pair = torch.cat([z_context, z_target], -1)
        if self.form == "scale_free":  # each dimension in units of its own deviation, the ridge too
            std = covariance.diagonal().clamp(min=SMALLEST_VARIANCE).sqrt()
            pair, mean, covariance = pair / std, mean / std, covariance / std / std.unsqueeze(-1)
        loss = -log_density(pair, mean, covariance)
        if self.form != "primal":
            loss = loss + log_density(pair[..., context], mean[context], covariance[context, context])
        if self.form == "scale_free":
            loss = loss + log_density(pair[..., target], mean[target], covariance[target, target])
        return loss / self.dim


def joint_moments(z_context: Tensor, z_target: Tensor, shrinkage: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean `[2D]` and covariance `[2D, 2D]` of pairs `[..., D]`, the latter shrunk towards its diagonal."""
    mean, covariance = moments(torch.cat([z_context, z_target], -1))
    return mean, covariance + shrinkage * (covariance.diagonal().diag_embed() - covariance)


def log_density(z: Tensor, mean: Tensor, covariance: Tensor, ridge: float = RIDGE) -> Tensor:
    """Of `z [..., D]` under one Gaussian of `mean [D]` and `covariance [D, D]` with a `ridge`, `[...]`."""
    factor = cholesky(covariance, ridge)
    white = whiten(z - mean, factor)
    return -0.5 * (white.square() + LOG_2PI).sum(-1) - factor.diagonal().log().sum()


def whiten(z: Tensor, factor: Tensor) -> Tensor:
    """Centred `z [..., D]` times the inverse of one lower `factor [D, D]`."""
    return torch.linalg.solve_triangular(factor.mT, z.flatten(0, -2), upper=True, left=False).reshape(z.shape)


def condition(
    mean: Tensor, covariance: Tensor, z_context: Tensor, ridge: float = RIDGE
) -> CovarianceGaussian:
    r"""Belief over the target given `z_context [..., D]`, in closed form.

    .. math:: \mu_{t|c} = \mu_t + \Sigma_{tc} \Sigma_{cc}^{-1} (z_c - \mu_c), \quad
        \Sigma_{t|c} = \Sigma_{tt} - \Sigma_{tc} \Sigma_{cc}^{-1} \Sigma_{ct}

    With a Cholesky factor :math:`L` of :math:`\Sigma`, context first, these are
    :math:`\mu_t + L_{tc} L_{cc}^{-1} (z_c - \mu_c)` and :math:`L_{tt} L_{tt}^\top`.

    Arguments:
        mean: of pairs, context first, `[2D]` (`joint_moments`).
        covariance: of pairs, `[2D, 2D]`.
        ridge: added to the variances.
    """
    dim = z_context.shape[-1]
    factor = cholesky(covariance, ridge)
    told = whiten(z_context - mean[:dim], factor[:dim, :dim]) @ factor[dim:, :dim].mT
    return CovarianceGaussian(mean[dim:] + told, factor[dim:, dim:].expand(*z_context.shape[:-1], dim, dim))
