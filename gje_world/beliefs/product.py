"""Bayesian fusion of Gaussian beliefs: what two sources that err independently say together."""

from __future__ import annotations

import torch
from torch import Tensor

from gje_world.beliefs.dense import PrecisionGaussian
from gje_world.beliefs.diagonal import DiagonalGaussian
from gje_world.beliefs.gaussian import Gaussian, cholesky
from gje_world.beliefs.spectral import SpectralGaussian


def fuse(a: Gaussian, b: Gaussian) -> Gaussian:
    r"""Product of two Gaussian experts (Hinton, 2002), normalised.

    .. math:: \Lambda = \Lambda_a + \Lambda_b, \qquad \mu = \Lambda^{-1}(\Lambda_a \mu_a + \Lambda_b \mu_b)

    with :math:`\Lambda` the precisions. The belief of a predictor fused with a goal is where the world will
    be if it is to reach that goal; fused with a second predictor's, what both know. Each must rest on
    evidence of its own: what both have seen is counted twice.

    Arguments:
        a, b: of batch shapes that broadcast together, and of one dimension `D`.

    Returns a diagonal belief for two diagonal ones, else one with a full precision.

    Raises:
        ValueError: the dimensions differ, or one of the two is no Gaussian.
    """
    for belief in (a, b):
        if not isinstance(belief, Gaussian):
            raise ValueError(f"only Gaussian beliefs fuse in closed form, got a {type(belief).__name__}")
    if a.dim != b.dim:
        raise ValueError(f"beliefs to fuse must be over one embedding, got dimensions {a.dim} and {b.dim}")
    if isinstance(a, DiagonalGaussian) and isinstance(b, DiagonalGaussian):
        total = a.variance + b.variance
        return DiagonalGaussian(
            (a.mean * b.variance + b.mean * a.variance) / total, a.std * b.std * total.rsqrt()
        )
    with torch.autocast(a.mean.device.type, enabled=False):
        precisions = [precision_matrix(a), precision_matrix(b)]
        tril = cholesky(precisions[0] + precisions[1])
        pulls = [(matrix @ e.mean.unsqueeze(-1)) for matrix, e in zip(precisions, (a, b), strict=True)]
        mean = torch.cholesky_solve(pulls[0] + pulls[1], tril).squeeze(-1)
    return PrecisionGaussian(mean, tril)


def precision_matrix(belief: Gaussian) -> Tensor:
    r"""Precision :math:`\Sigma^{-1}` of a Gaussian belief, `[..., D, D]`."""
    if isinstance(belief, PrecisionGaussian):
        return belief.precision_tril @ belief.precision_tril.mT
    if isinstance(belief, DiagonalGaussian):
        return belief.variance.reciprocal().diag_embed()
    if isinstance(belief, SpectralGaussian):
        return (belief.basis * belief.std.square().reciprocal().unsqueeze(-2)) @ belief.basis.mT
    return torch.cholesky_inverse(cholesky(belief.covariance_matrix))
