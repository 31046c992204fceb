"""Conditional Gaussian Joint Embeddings: likelihood of the target under the belief, plus a marginal term."""

from __future__ import annotations

import math
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gje_world.beliefs import Belief, Gaussian, Mixture
from gje_world.beliefs.gaussian import LOG_2PI
from gje_world.objectives.objective import (
    Objective,
    negative_log_likelihood,
    require,
    require_one_of,
)
from gje_world.objectives.statistics import distributed, gather

FITS = ("likelihood", "composite", "moments")
COMPOSITE = ("diagonal", "low_rank", "full", "full_covariance", "spectral", "mixture")  # beliefs so fitted


class ConditionalGJE(Objective):
    r"""The default objective (after arXiv 2603.26799, conditional form).

    .. math:: L = -\frac1D\, E[\log p(z_t \mid z_c)] + \lambda\, L_\mathrm{marginal}

    Alone, the likelihood is unbounded below: shrink the embeddings, then the variance. With the Gaussian
    marginal term at :math:`\lambda = 1` the sum is, up to constants, minus a Gaussian lower bound on the
    mutual information of context and target, so neither stop-gradient nor a momentum encoder is needed, plus
    half the mean square of the embeddings: mutual information knows no scale, so the plain likelihood lets
    them shrink there. At :math:`\lambda > 1` their variance settles at :math:`1 - 1/\lambda`; a finite
    resolution holds it too.

    The likelihood is taken at a finite resolution :math:`\tau` (`Belief.learning_log_prob`). In a nearly
    deterministic world it would otherwise reward ever finer prediction of what is predicted already: the
    slowest variable takes the gradient, with weight :math:`1/\sigma^2`, and its harmonics fill the embedding.

    A Gaussian marginal cannot see all: embeddings in a few tight heaps have a covariance like any other, and
    a mixture is sure of the heaps whatever the context. So a share :math:`\alpha` of the loss, `contrast`,
    may be to tell each target's context from all :math:`N` of the batch (`compare`). With
    :math:`\ell_j = \frac1D \log p(z_t \mid z_{c_j})`, and :math:`c` its own,

    .. math:: (1 - \alpha) L - \alpha\, \tau_c\, E\Big[
        \log \frac{\exp(\ell_c / \tau_c)}{\frac1N \sum_j \exp(\ell_j / \tau_c)}\Big],

    whose second part is, but for the factor :math:`\tau_c`, InfoNCE (van den Oord et al., 2018, eq. 4) with
    the log-density per dimension over the `temperature` :math:`\tau_c` as critic: a bound on the mutual
    information whatever the critic. At :math:`\tau_c = 1/D` that is the log-density itself, as sharp as it is
    over many dimensions: nearly all pairs are soon told apart, the bound is at its limit :math:`\log N`, and
    little is left to learn from. At any other a belief that learnt from this would no longer be true: it is
    for the embeddings to learn from, and beliefs learn by the likelihood alone, with the critic held
    (`ViewPredictor.believe`), or again once the encoder rests (`VideoLearner`). Beliefs that are blurred by
    draws of noise (mixture, student_t) have draws of their own on each rank.

    Arguments:
        resolution: :math:`\tau`, in units of the embedding; 0 for the plain likelihood.
        contrast: :math:`\alpha`, at least 0 and below 1, for those who call `compare`; contexts are along the
            last dimension of the batch, on all ranks.
        temperature: :math:`\tau_c > 0`, of the contrast.
        beta: of the beta-NLL (Seitzer et al., 2022, eq. 5), which weighs each dimension's loss with its
            variance to this power, held fixed; 0 for the likelihood, 1 for the gradients of a squared error
            to the mean. Takes a diagonal belief.
        fit: `likelihood`; or `composite`: spreads learn by it, but the means by that of each dimension on its
            own (`Gaussian.composite_log_prob`), which a Gaussian, or a mixture, whose dimensions err together
            needs to learn what it could take for noise, but which bounds no mutual information; or `moments`:
            the squared error of the mean, and that of the variance from the squared residual, held fixed;
            bounded where a likelihood is not, but blind to the shape.
        common: options of every objective.
    """

    name = "gje_conditional"

    def __init__(
        self,
        dim: int,
        *,
        resolution: float = 0.0,
        contrast: float = 0.0,
        temperature: float = 0.25,
        beta: float = 0.0,
        fit: str = "likelihood",
        **common: Any,
    ):
        super().__init__(dim, **common)
        require(0 <= contrast < 1, "contrast", contrast, "at least 0 and below 1")
        require(temperature > 0, "temperature", temperature, "above 0")
        require(resolution >= 0, "resolution", resolution, "at least 0")
        require(0 <= beta <= 1, "beta", beta, "between 0 and 1")
        require_one_of("fit", fit, FITS)
        require(fit == "likelihood" or not beta, "beta", beta, f"0 where fit={fit}")
        require(fit != "moments" or not resolution, "resolution", resolution, f"0 where fit={fit}")
        contrasts = fit != "moments" and not beta
        require(not contrast or contrasts, "contrast", contrast, "0 with beta or fit=moments")
        self.resolution, self.contrast, self.beta, self.fit = resolution, contrast, beta, fit
        self.temperature = temperature

    def require_belief(self, name: str) -> None:
        if self.beta and name != "diagonal":
            raise ValueError(f"objective.beta={self.beta} needs belief=diagonal; got belief={name}")
        if self.fit == "composite" and name not in COMPOSITE:
            raise ValueError(
                f"objective.fit=composite needs belief one of {', '.join(COMPOSITE)}; for belief={name} give "
                "objective.fit=likelihood"
            )

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Negative log-likelihood per dimension of `z_target [..., D]`, shape `[...]`, in nats."""
        if self.fit == "moments":
            return moment_error(belief, z_target)
        if self.fit == "composite":
            if not isinstance(belief, Gaussian | Mixture):  # one that has been calibrated, or was rescaled
                raise ValueError(f"fit=composite is of a belief as it is learnt; got {belief!r}")
            return -belief.composite_log_prob(z_target, self.resolution) / self.dim
        if self.beta:
            return beta_nll(belief, z_target, self.beta, self.resolution)
        return negative_log_likelihood(belief, z_target, self.resolution)

    def comparison(self, critic: Belief, z_target: Tensor) -> Tensor:
        count, dim = z_target.shape[-2:]
        first = count * dist.get_rank() if distributed() else 0
        everyone = gather(z_target.movedim(-2, 0)).movedim(0, -2)  # [..., R * N, D], of all ranks
        each = critic.pairwise_log_prob(everyone, self.resolution) / (dim * self.temperature)
        total = gather(each.logsumexp(-1).unsqueeze(0)).logsumexp(0)  # under the contexts of all ranks
        own = each.narrow(-2, first, count).diagonal(dim1=-2, dim2=-1)
        mean = total.narrow(-1, first, count) - math.log(total.shape[-1])
        return self.temperature * (mean - own)


def beta_nll(belief: Belief, z_target: Tensor, beta: float, resolution: float = 0.0) -> Tensor:
    r"""The beta-NLL of a diagonal Gaussian `belief`, mean over dimensions, shape `[...]`.

    .. math:: \frac1D \sum_j \lfloor\sigma_j^{2\beta}\rfloor \cdot
        \tfrac12 \Big(\log 2\pi\sigma_j^2 + \frac{(z_j - \mu_j)^2}{\sigma_j^2}\Big)

    (Seitzer et al., 2022, eq. 5), with :math:`\lfloor\cdot\rfloor` held fixed, and
    :math:`\sigma_j^2 + \tau^2` for :math:`\sigma_j^2`, the squared error likewise, at a finite resolution.
    """
    noise = resolution**2
    variance = belief.variance + noise
    surprise = ((z_target - belief.mean).square() + noise) / variance + variance.log() + LOG_2PI
    return 0.5 * (variance.detach() ** beta * surprise).mean(-1)


def moment_error(belief: Belief, z_target: Tensor) -> Tensor:
    r"""Squared errors of a belief's mean and variance, mean over dimensions, shape `[...]`.

    .. math:: \frac1D \sum_j (z_j - \mu_j)^2 + \big(\sigma_j^2 - \lfloor (z_j - \mu_j)^2 \rfloor\big)^2
    """
    residual = (z_target - belief.mean).square()
    return (residual + (belief.variance - residual.detach()).square()).mean(-1)
