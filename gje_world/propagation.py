"""Beliefs several steps ahead: by particles, or by their first two moments in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gje_world.beliefs import Belief, CovarianceGaussian
from gje_world.beliefs.ensemble import Pool
from gje_world.beliefs.gaussian import cholesky

METHODS = ("particles", "moments")
LEAST_VARIANCE = 1e-10  # along any axis of propagated moments, which rounding may leave with none


class Dynamics(Protocol):
    """What is propagated through, such as a `WorldModel`."""

    def believe(self, z: Tensor, action: Tensor) -> Belief: ...


def propagate(
    world: Dynamics, z: Tensor, action: Tensor, method: str = "particles", particles: int = 64
) -> list[Belief]:
    r"""Beliefs over the embeddings `[B, D]` at each of the next `T` steps, from `z [B, D]`.

    By particles, the belief at a step is the equal mixture of what the particles of the step before believe:
    of any shape, with moments exact as their number grows; its density, and so its regions, are far too sure
    where they are few for `D`, as 64 are beyond a few dimensions. By moments, it is a Gaussian, carried
    through the linearised mean as in the extended Kalman filter: with :math:`J` the derivative of the
    believed mean :math:`f`,

    .. math:: \mu_{t+1} = f(\mu_t), \qquad \Sigma_{t+1} = J \Sigma_t J^\top + \Sigma_f(\mu_t)

    It needs one evaluation a step and its Jacobian, has no sampling noise, and is exact for linear dynamics
    whose noise does not depend on where they are.

    Arguments:
        world: its `believe(z, action)` is taken row by row.
        action: `[T, B, A]`.
        method: "particles" or "moments".
        particles: of each row.

    Raises:
        ValueError: there is no such method, no action, no particle, or for moments no covariance.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if not len(action):
        raise ValueError(f"action must be [T, B, A] with T at least 1, got shape {list(action.shape)}")
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}")
    if method == "moments":
        return [
            gaussian(mean, covariance) for mean, covariance in moments(partial(linearised, world), z, action)
        ]
    return _particles(world, z, action, particles)


def _particles(world: Dynamics, z: Tensor, action: Tensor, particles: int) -> list[Belief]:
    beliefs = [world.believe(z, action[0])]
    cloud = beliefs[0].rsample((particles,))
    for step in action[1:]:
        each = world.believe(cloud, step.expand(particles, *step.shape))
        beliefs.append(Pool(each))
        cloud = each.rsample()
    return beliefs


def moments(
    linearise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], z: Tensor, action: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean `[B, D]` and covariance `[B, D, D]` at each of the next `T` steps, by moment propagation.

    Arguments:
        linearise: of `z` and an action: the believed mean, its Jacobian there, and the believed covariance.
    """
    mean, covariance = z, None
    for step in action:
        with torch.autocast(z.device.type, enabled=False):  # derivatives of a lower precision are not batched
            mean, jacobian, noise = linearise(mean, step)
            covariance = noise if covariance is None else jacobian @ covariance @ jacobian.mT + noise
        yield mean, covariance


def linearised(world: Dynamics, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The belief's mean `[B, D]` at `z [B, E]`, that mean's Jacobian `[B, D, E]`, covariance `[B, D, D]`.

    Raises:
        ValueError: the world's belief has no covariance in closed form.
    """
    belief = world.believe(z, action)
    noise = _exact_covariance(belief)
    # rows do not depend on each other, so the Jacobian of their sum holds that of each
    jacobian = torch.func.jacrev(lambda z: world.believe(z, action).mean.sum(0))(z)
    return belief.mean, jacobian.movedim(0, 1), noise


def _exact_covariance(belief: Belief) -> Tensor:
    try:
        return belief.covariance_matrix
    except NotImplementedError as error:
        raise ValueError(f"method=moments cannot be used: {error}; use method=particles") from error


def covariance(belief: Belief) -> Tensor:
    """A belief's covariance `[..., D, D]`, that of its variances where it has no other in closed form."""
    try:
        return belief.covariance_matrix
    except NotImplementedError:
        return belief.variance.diag_embed()


def gaussian(mean: Tensor, covariance: Tensor) -> CovarianceGaussian:
    """The Gaussian belief of that mean `[..., D]` and covariance `[..., D, D]`."""
    with torch.autocast(mean.device.type, enabled=False):
        return CovarianceGaussian(mean, cholesky(covariance.to(mean.dtype), LEAST_VARIANCE))
