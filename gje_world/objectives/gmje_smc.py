"""Gaussian Mixture Joint Embeddings on a memory bank, kept by sequential Monte Carlo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gje_world.objectives.coupled import Coupled
from gje_world.objectives.objective import require
from gje_world.objectives.statistics import agree, gather, mean_over_ranks


class ParticleGMJE(Coupled):
    r"""How much better its own target explains a context than a memory bank does (GMJE-SMC).

    A context is an isotropic Gaussian around the target it belongs to, and what targets there are the bank's
    weighted particles tell, this batch's own among them (after arXiv 2603.26799). Of two views, or of several
    steps, those are the targets of the same view or step: not what the context itself was made from.

    .. math:: L = -\frac1D \log \frac{N(z_c; z_t, h^2 I)}{\sum_j w_j N(z_c; v_j, h^2 I)}

    With equal weights this is InfoNCE (van den Oord et al., 2018, eq. 4) with squared distances, less the
    logarithm of the number of particles.

    After each batch the bank is filtered: a particle's weight becomes the mean posterior probability that it
    explains a context of the batch; if the effective sample size falls below half, particles are drawn anew
    by systematic resampling (Doucet and Johansen, 2009, section 3.4); the oldest give way to the batch's
    targets, at equal weight. What is like the present contexts lives on, as hard negatives; the stale dies.

    Arguments:
        particles: size of the bank, `M`; 0 for the batch alone.
        bandwidth: :math:`h`, in units of the embedding.
        common: options of every coupled objective.
    """

    name = "gmje_smc"
    particles: Tensor
    weights: Tensor

    def __init__(self, dim: int, *, particles: int = 1024, bandwidth: float = 1.0, **common: Any):
        super().__init__(dim, **common)
        require(particles >= 0, "particles", particles, "at least 0")
        require(bandwidth > 0, "bandwidth", bandwidth, "above 0")
        self.count, self.bandwidth = particles, bandwidth
        self.register_buffer("particles", torch.randn(particles, dim))
        self.register_buffer("weights", torch.full((particles,), 1 / max(particles, 1)))

    def couple(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        targets = gather(z_target.movedim(-2, 0)).movedim(0, -2)  # [..., N, D], of all ranks
        pool = torch.cat([self.particles.expand(*targets.shape[:-2], -1, -1), targets], -2)
        weights = torch.cat([self.count * self.weights, self.weights.new_ones(targets.shape[-2])])
        log_joint = (weights / len(weights)).log() + self.log_kernel(z_context, pool)  # [..., B, M + N]
        total = log_joint.logsumexp(-1, keepdim=True)
        if self.training and self.count:
            posterior = (log_joint - total).detach()[..., : self.count].exp()
            self.renew(mean_over_ranks(posterior.flatten(0, -2).mean(0)), targets.detach().flatten(0, -2))
        own = -0.5 * ((z_context - z_target) / self.bandwidth).square().sum(-1)
        return (total.squeeze(-1) - own) / self.dim

    def log_kernel(self, z_context: Tensor, points: Tensor) -> Tensor:
        """Log-densities, but for a constant, of `z_context [..., B, D]` around `points [..., M, D]`:
        `[..., B, M]`."""
        # distances are found from products, which lose digits far from 0
        centre = points.detach().flatten(0, -2).mean(0)
        z_context, points = z_context - centre, points - centre
        squares = z_context.square().sum(-1, keepdim=True) + points.square().sum(-1).unsqueeze(-2)
        return (z_context @ points.mT - 0.5 * squares) / self.bandwidth**2

    @torch.no_grad()
    def renew(self, weights: Tensor, targets: Tensor) -> None:
        """Give particles new `weights [M]`, resample if few have most of it, and let `targets [N, D]` in."""
        weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)
        weights = weights / weights.sum()
        equal = torch.full_like(weights, 1 / self.count)
        few = 1 / weights.square().sum() < self.count / 2
        index = torch.where(few, systematic(weights), torch.arange(self.count, device=weights.device))
        weights = torch.where(few, equal, weights)
        # systematic resampling keeps the order, so the oldest stand first
        self.particles.copy_(torch.cat([self.particles[index], targets])[-self.count :])
        weights = torch.cat([weights, equal[:1].expand(len(targets))])[-self.count :]
        self.weights.copy_(weights / weights.sum())


def systematic(weights: Tensor) -> Tensor:
    """Indices `[M]` of a systematic resampling by normalised `weights [M]`: sorted, each as often as due."""
    count = len(weights)
    offset = agree(torch.rand((), dtype=weights.dtype, device=weights.device))
    places = (torch.arange(count, dtype=weights.dtype, device=weights.device) + offset) / count
    return torch.searchsorted(weights.cumsum(0), places).clamp(max=count - 1)
