"""Mixtures over how wide a belief is: what calibrates one that is too sure here and not sure enough there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.mixture import draw_index


class ScaleMixture(Belief):
    r"""Belief :math:`\sum_j w_j\, p_{s_j}`, with :math:`p_s` the base, `s` times as wide (`Belief.rescale`).

    Of a Gaussian with continuous weights these are the elliptical laws that are mixtures of normals, the
    Student-t among them (Andrews and Mallows, 1974). Entropy and regions are Monte Carlo estimates.

    Arguments:
        base: the belief.
        scales: :math:`s > 0`, `[S]`.
        log_weights: :math:`\log w`, normalised, `[S]`.
    """

    def __init__(self, base: Belief, scales: Tensor, log_weights: Tensor):
        self.base, self.scales, self.log_weights = base, scales, log_weights
        self.name = base.name
        super().__init__(base.batch_shape, base.dim)

    def at_all_scales(self) -> Belief:
        """The belief at each scale, as one of batch shape `[S, ...]`."""
        return self.base.rescale(self.scales.view(-1, *(1,) * len(self.batch_shape)))

    def average(self, values: Tensor) -> Tensor:
        """Of a property at each scale `[S, ...]`, by their weights."""
        weights = self.log_weights.exp().view(-1, *(1,) * (values.ndim - 1))
        return (weights * values).sum(0)  # in the precision they have, autocast or not

    @property
    def mean(self) -> Tensor:
        return self.average(self.at_all_scales().mean)

    @property
    def centre(self) -> Tensor:
        return self.base.centre

    @property
    def variance(self) -> Tensor:
        return self.average(self.at_all_scales().variance)

    @property
    def covariance_matrix(self) -> Tensor:
        return self.average(self.at_all_scales().covariance_matrix)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logsumexp(self.base.log_prob_at_scales(value, self.scales) + self.log_weights, -1)

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        return self.draw(sample_shape)[0]

    def draw(self, sample_shape: _size = EMPTY) -> tuple[Tensor, Tensor]:
        drawn, centre = self.base.draw(sample_shape)
        scale = draw_scales(self.scales, self.log_weights, drawn.shape[:-1])
        return centre + scale.unsqueeze(-1) * (drawn - centre), centre

    def translate(self, offset: Tensor) -> ScaleMixture:
        return ScaleMixture(self.base.translate(offset), self.scales, self.log_weights)

    def rescale(self, scale: Tensor) -> ScaleMixture:
        return ScaleMixture(self.base.rescale(scale), self.scales, self.log_weights)


def draw_scales(scales: Tensor, log_weights: Tensor, shape: _size) -> Tensor:
    """Scales of those weights, drawn for each place of `shape`."""
    return scales[draw_index(log_weights, shape)]


def fit_weights(densities: Tensor, prior: Tensor, rounds: int = 1000) -> Tensor:
    """Weights `[S]` of scales that make data likeliest, by expectation maximisation (Dempster et al., 1977).

    The likelihood is concave in them; its maximum is approached, and slowly where scales are much alike.

    Arguments:
        densities: log-density of each datum at each scale, `[N, S]`.
        prior: data that each scale is held to have told before any was seen, `[S]`.
        rounds: of the maximisation.
    """
    densities = densities.double()
    weights = torch.full_like(densities[0], 1 / densities.shape[1])
    for _ in range(rounds):
        told = (densities + weights.log()).softmax(-1).sum(0) + prior
        weights = told / told.sum()
    return weights.float()
