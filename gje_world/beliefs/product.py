"""Bayesian fusion of beliefs: what two sources that err independently say together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gje_world.beliefs.belief import Belief
from gje_world.beliefs.dense import PrecisionGaussian
from gje_world.beliefs.diagonal import DiagonalGaussian
from gje_world.beliefs.ensemble import Ensemble, Pool
from gje_world.beliefs.gaussian import Gaussian, cholesky
from gje_world.beliefs.low_rank import LowRankGaussian
from gje_world.beliefs.mixture import Mixture
from gje_world.beliefs.scale_mixture import ScaleMixture
from gje_world.beliefs.spectral import SpectralGaussian

Simple = DiagonalGaussian | PrecisionGaussian  # what all others fuse as


def fuse(a: Belief, b: Belief) -> Gaussian | Mixture:
    r"""Product of two experts (Hinton, 2002), normalised.

    Of two Gaussians, with :math:`\Lambda` their precisions,

    .. math:: \Lambda = \Lambda_a + \Lambda_b, \qquad \mu = \Lambda^{-1}(\Lambda_a \mu_a + \Lambda_b \mu_b)

    A mixture's components are fused each with the other belief, or with each of its components, and weighed
    anew by how far the two overlap:

    .. math:: w_{kl} \propto w_k w_l\, N(\mu_k;\, \mu_l,\, \Sigma_k + \Sigma_l)

    So a goal makes the futures that lead to it likelier, beside moving each. The belief of a predictor fused
    with a goal is where the world will be if it is to reach that goal; fused with a second predictor's, what
    both know. Each must rest on evidence of its own: what both have seen is counted twice.

    Arguments:
        a, b: Gaussians, mixtures, ensembles of either, pools (what particles believe, several steps ahead)
            or mixtures of their scales; of batch shapes that broadcast together, and of one dimension `D`.

    Returns a diagonal belief for two diagonal ones, a full precision for two other Gaussians; else the
    mixture of all pairs of components, `K = K_a K_b`.

    Raises:
        ValueError: the dimensions differ, or one of the two is neither Gaussian nor a mixture of Gaussians.
    """
    if a.dim != b.dim:
        raise ValueError(f"beliefs to fuse must be over one embedding, got dimensions {a.dim} and {b.dim}")
    if isinstance(a, Gaussian) and isinstance(b, Gaussian):
        return _fuse_gaussians(a, b)
    with torch.autocast(a.mean.device.type, enabled=False):
        (weights_a, each_a), (weights_b, each_b) = _components(a), _components(b)
        one = _changed(each_a, lambda part, event: part.unsqueeze(-1 - event))  # [..., K, 1]
        other = _changed(each_b, lambda part, event: part.unsqueeze(-2 - event))  # [..., 1, L]
        fused = _fuse_gaussians(one, other)  # [..., K, L]
        # the densities multiply up to the overlap, wherever they are taken: here the exponents are small
        place = fused.mean
        overlap = one.log_prob(place) + other.log_prob(place) - fused.log_prob(place)
        logits = weights_a.unsqueeze(-1) + weights_b.unsqueeze(-2) + overlap
    pairs = _changed(fused, lambda part, event: part.flatten(-2 - event, -1 - event))
    return Mixture(F.log_softmax(logits.flatten(-2), -1), pairs)


def _fuse_gaussians(a: Gaussian, b: Gaussian) -> Simple:
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


def _components(belief: Belief) -> tuple[Tensor, Simple]:
    """Log weights `[..., K]` and Gaussians of batch shape `[..., K]` that a belief is the mixture of."""
    if isinstance(belief, DiagonalGaussian | PrecisionGaussian):
        each = _changed(belief, lambda part, event: part.unsqueeze(-1 - event))
        return belief.mean.new_zeros(*belief.batch_shape, 1), each
    if isinstance(belief, Gaussian):
        return _components(PrecisionGaussian(belief.mean, cholesky(precision_matrix(belief))))
    if isinstance(belief, Mixture):
        parts = belief.components
        if isinstance(parts, LowRankGaussian):
            parts = PrecisionGaussian(parts.mean, cholesky(precision_matrix(parts)))
        return belief.log_weights, parts
    if isinstance(belief, Ensemble):
        members = [_components(member) for member in belief.members]
        joined = torch.cat([weights for weights, _ in members], -1) - math.log(len(members))
        return joined, _joined([each for _, each in members])
    if isinstance(belief, Pool | ScaleMixture):
        many = belief.beliefs if isinstance(belief, Pool) else belief.at_all_scales()
        weights, each = _components(many)  # [P, ..., K]
        log_shares = -math.log(len(each.mean)) if isinstance(belief, Pool) else belief.log_weights
        pooled = _changed(
            each, lambda part, event: part.movedim(0, -2 - event).flatten(-2 - event, -1 - event)
        )
        weights = weights.expand(each.batch_shape).movedim(0, -1) + log_shares
        return weights.movedim(-1, -2).flatten(-2), pooled
    raise ValueError(
        f"only Gaussian beliefs and mixtures of them fuse in closed form, got a {type(belief).__name__}"
    )


def _joined(parts: Sequence[Simple]) -> Simple:
    """Components `[..., K]` of parts of one kind, one after another."""
    mean = torch.cat([part.mean for part in parts], -2)
    stds = [part.std.expand_as(part.mean) for part in parts if isinstance(part, DiagonalGaussian)]
    if stds:
        return DiagonalGaussian(mean, torch.cat(stds, -2))
    full = (part for part in parts if isinstance(part, PrecisionGaussian))
    trils = [part.precision_tril.expand(*part.batch_shape, -1, -1) for part in full]
    return PrecisionGaussian(mean, torch.cat(trils, -3))


def _changed(each: Simple, change: Callable[[Tensor, int], Tensor]) -> Simple:
    """Gaussians whose batch is changed by `change(part, event)`, of so many dimensions that are no batch."""
    mean = change(each.mean, 1)
    if isinstance(each, DiagonalGaussian):
        return DiagonalGaussian(mean, change(each.std.expand_as(each.mean), 1))
    tril = each.precision_tril.expand(*each.batch_shape, -1, -1)
    return PrecisionGaussian(mean, change(tril, 2))


def precision_matrix(belief: Gaussian) -> Tensor:
    r"""Precision :math:`\Sigma^{-1}` of a Gaussian belief, `[..., D, D]`."""
    if isinstance(belief, PrecisionGaussian):
        return belief.precision_tril @ belief.precision_tril.mT
    if isinstance(belief, DiagonalGaussian):
        return belief.variance.reciprocal().diag_embed()
    if isinstance(belief, SpectralGaussian):
        return (belief.basis * belief.std.square().reciprocal().unsqueeze(-2)) @ belief.basis.mT
    return torch.cholesky_inverse(cholesky(belief.covariance_matrix))
