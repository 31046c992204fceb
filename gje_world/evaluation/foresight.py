"""How good are beliefs several steps ahead? Likelihood, energy score, regions and sharpness by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gje_world.beliefs import Belief, CovarianceGaussian, Pool
from gje_world.beliefs.gaussian import cholesky
from gje_world.evaluation.futures_scores import rank_pit
from gje_world.evaluation.scores import coverage_error, energy_score
from gje_world.objectives.statistics import RIDGE, moments, own
from gje_world.propagation import covariance, gaussian

SEED = 2**31  # of where a rank lies between two draws
DRAWS_AT_ONCE = 4  # held against all particles of a cloud


class Foresight(NamedTuple):
    """Scores at each of `H` steps ahead, all of held-out embeddings; likelihoods in nats per dimension."""

    nll: Tensor  # [H], of a cloud of particles by the Gaussian of its mean and covariance (`likelihood`)
    marginal_nll: Tensor  # [H], of the Gaussian of all embeddings, which knows nothing of the past
    energy: Tensor  # [H], energy score, in embedding units
    mass: Tensor  # [H, N], of the smallest region that holds what happened: uniform if calibrated
    sharpness: Tensor  # [H], mean standard deviation

    @property
    def coverage_errors(self) -> Tensor:
        """How far regions of 50, 90 and 95 % are from holding that share, `[H, 3]`."""
        return torch.stack([coverage_error(mass) for mass in self.mass])

    @property
    def horizon(self) -> int:
        """Steps ahead up to which the belief is better than the marginal Gaussian."""
        better = (self.nll < self.marginal_nll).tolist()
        return better.index(False) if False in better else len(better)


def marginal_gaussian(z: Tensor) -> CovarianceGaussian:
    """The Gaussian of mean and covariance of the embeddings `z [..., D]`."""
    mean, covariance = moments(z, over_ranks=own)
    return CovarianceGaussian(mean, cholesky(covariance, RIDGE))


def likelihood(belief: Belief) -> Belief:
    """What tells the density under a belief: itself, but for a cloud of particles the Gaussian of its mean
    and covariance.

    The density of a cloud is that of bumps where its particles happen to lie. In many dimensions what happens
    lies near none of them: of a random walk in ten, five steps ahead, 64 particles of the true law lose half
    a nat per dimension. The Gaussian needs far fewer; several futures apart it takes for one wide one.
    """
    return gaussian(belief.mean, covariance(belief)) if isinstance(belief, Pool) else belief


def region_mass(belief: Belief, draws: Tensor, value: Tensor, generator: Generator) -> Tensor:
    """Mass of the smallest region of a belief that holds `value [N, D]`, `[N]`: `Belief.coverage`, but for a
    cloud of particles.

    Their own draws lie where they are themselves, as nothing else does, so its density is held against that
    of futures drawn apart from them, `draws [S, N, D]`: if these and `value` are of one law, its rank among
    them is uniform, however few the particles and the draws: its place between two of them is random.

    Arguments:
        generator: of that place.
    """
    if not isinstance(belief, Pool):
        return belief.coverage(value)
    each = torch.cat([belief.log_prob(few) for few in draws.split(DRAWS_AT_ONCE)])  # of all particles: large
    return rank_pit(-each, -belief.log_prob(value), generator)


@torch.no_grad()
def foresight(beliefs: list[Belief], futures: Tensor, target: Tensor, marginal: Belief) -> Foresight:
    """Scores of `beliefs`, one a step, whose batch shape is `[N]`.

    Arguments:
        futures: draws from them, `[H, S, N, D]`, independent of what made them.
        target: what happened, `[H, N, D]`.
        marginal: of all embeddings.
    """
    dim = target.shape[-1]
    pairs = list(zip(beliefs, target, strict=True))
    generator = Generator().manual_seed(SEED)
    return Foresight(
        nll=torch.stack([-likelihood(belief).log_prob(z).mean() / dim for belief, z in pairs]),
        marginal_nll=torch.stack([-marginal.log_prob(z).mean() / dim for z in target]),
        energy=torch.stack([energy_score(f, z).mean() for f, z in zip(futures, target, strict=True)]),
        mass=torch.stack([region_mass(b, f, z, generator) for (b, z), f in zip(pairs, futures, strict=True)]),
        sharpness=torch.stack([belief.variance.sqrt().mean() for belief in beliefs]),
    )
