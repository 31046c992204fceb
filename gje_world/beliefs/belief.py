"""The word that everything here speaks: a belief over an embedding."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

EMPTY = torch.Size()
SAMPLES = 199  # of Monte Carlo estimates: ranks among them fall on every multiple of half a percent
AT_ONCE = 25  # of them: where densities are networks, memory grows with each


class Belief(Distribution):
    """A probability distribution over embeddings, event shape `[D]`.

    Beyond what every torch distribution has, a belief can be moved, knows its own regions, and says what
    training maximises. What has no closed form is estimated from `SAMPLES` draws, and says so.
    """

    name = "belief"  # that of its head in `HEADS`; those without a head keep this one
    blurs = False  # whether a finite resolution changes what training maximises
    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, batch_shape: _size, dim: int):
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, dim={self.dim})"

    @property
    def dim(self) -> int:
        """Embedding dimension `D`."""
        return self.event_shape[0]

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance `[..., D, D]`."""
        raise NotImplementedError(f"{type(self).__name__} has no covariance matrix in closed form")

    def entropy(self) -> Tensor:
        """Differential entropy `[...]` in nats; a Monte Carlo estimate where no closed form is known."""
        return -self._densities_of_draws().mean(0)

    def _densities_of_draws(self) -> Tensor:
        """Log-densities `[SAMPLES, ...]` of draws of its own."""
        counts = [min(AT_ONCE, SAMPLES - done) for done in range(0, SAMPLES, AT_ONCE)]
        return torch.cat([self.log_prob(self.rsample((count,))) for count in counts])

    def translate(self, offset: Tensor) -> Belief:
        """The same belief moved by `offset`, of its own shape `[*batch, D]`."""
        return Translated(self, offset)

    @property
    def centre(self) -> Tensor:
        """What `rescale` keeps in its place `[..., D]`: the mean, unless that is only estimated."""
        return self.mean

    def rescale(self, scale: Tensor) -> Belief:
        """The same belief, `scale [...]` times as wide about its centre; of several each about its own.

        Arguments:
            scale: above 0, of a shape that broadcasts with the batch's.
        """
        return Rescaled(self, scale)

    def log_prob_at_scales(self, value: Tensor, scales: Tensor) -> Tensor:
        """Log-densities `[..., S]` of `value [..., D]` under the belief at each of `scales [S]`."""
        return torch.stack([self.rescale(scale).log_prob(value) for scale in scales], -1)

    def draw(self, sample_shape: _size = EMPTY) -> tuple[Tensor, Tensor]:
        """A sample, as `rsample`, and the centre it lies about: of several beliefs, of the one it is of."""
        drawn = self.rsample(sample_shape)
        return drawn, self.centre.expand_as(drawn)

    @torch.no_grad()
    def coverage(self, value: Tensor) -> Tensor:
        """Probability mass of the smallest region that holds `value [..., D]`, shape `[...]`, in [0, 1].

        The smallest regions are those of highest density (Hyndman, 1996). For a calibrated belief this is
        uniform over data. Where no closed form is known, a Monte Carlo estimate: the rank of the density
        of `value` among those of `SAMPLES` draws, NaN where it has none.
        """
        density = self.log_prob(value)
        drawn = self._densities_of_draws()
        drawn = drawn.reshape(SAMPLES, *(1,) * (density.ndim - drawn.ndim + 1), *drawn.shape[1:])
        rank = (drawn > density).sum(0)
        return torch.where(density.isnan(), torch.nan, (rank + 0.5) / (SAMPLES + 1))

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        r"""What training maximises: the log-density `[...]` of `value [..., D]`, at finite resolution.

        .. math:: E_{\epsilon \sim N(0, I)} \log\, (p * N(0, \tau^2 I))(v + \tau\epsilon)

        Belief and value are both blurred by the same noise, so errors well below :math:`\tau` are neither
        rewarded nor punished, while the belief itself stays the one that is not blurred. A belief that has
        no blurred density (polar, flow) takes the plain log-density: against blurred values alone its spread
        would come to hold the noise.

        Arguments:
            resolution: :math:`\tau`, in units of the embedding; 0 for the plain log-density.
        """
        return self.log_prob(value)

    def pairwise_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        """`learning_log_prob` of each `value [..., M, D]` under each belief `[..., N]`: `[..., M, N]`."""
        samples = value.movedim(-2, 0).unsqueeze(-2)  # [M, ..., 1, D]
        return self.learning_log_prob(samples, resolution).movedim(0, -2)

    def spread_log_prob(self, value: Tensor) -> Tensor:
        """The log-density `[...]` of `value [..., D]` with gradient to the belief's spread and shape alone.

        The error is held fixed, so nothing gives way for a finer prediction.
        """
        return self.log_prob((value - self.mean).detach() + self.mean)


class Translated(Belief):
    """`base` moved by `offset [..., D]`."""

    def __init__(self, base: Belief, offset: Tensor):
        self.base, self.offset = base, offset
        self.name, self.blurs = base.name, base.blurs
        super().__init__(base.batch_shape, base.dim)

    @property
    def mean(self) -> Tensor:
        return self.base.mean + self.offset

    @property
    def centre(self) -> Tensor:
        return self.base.centre + self.offset

    @property
    def variance(self) -> Tensor:
        return self.base.variance.expand(self._extended_shape())

    @property
    def covariance_matrix(self) -> Tensor:
        return self.base.covariance_matrix

    def entropy(self) -> Tensor:
        return self.base.entropy()

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        return self.base.rsample(sample_shape) + self.offset

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value - self.offset)

    def coverage(self, value: Tensor) -> Tensor:
        return self.base.coverage(value - self.offset)

    def learning_log_prob(self, value: Tensor, resolution: float = 0.0) -> Tensor:
        return self.base.learning_log_prob(value - self.offset, resolution)

    def spread_log_prob(self, value: Tensor) -> Tensor:
        return self.base.spread_log_prob(value - self.offset)

    def rescale(self, scale: Tensor) -> Belief:
        return self.base.rescale(scale).translate(self.offset)

    def draw(self, sample_shape: _size = EMPTY) -> tuple[Tensor, Tensor]:
        drawn, centre = self.base.draw(sample_shape)
        return drawn + self.offset, centre + self.offset


class Rescaled(Belief):
    """`base`, `scale [...]` times as wide about its centre."""

    def __init__(self, base: Belief, scale: Tensor):
        shape = torch.broadcast_shapes(base.batch_shape, scale.shape)
        kept = shape[len(shape) - len(base.batch_shape) :]
        if kept != base.batch_shape:  # one draw would stand for several
            raise ValueError(
                f"scale {list(scale.shape)} must not repeat a belief of {list(base.batch_shape)}"
            )
        self.base, self.scale = base, scale.unsqueeze(-1)
        self.name = base.name
        super().__init__(shape, base.dim)

    @property
    def centre(self) -> Tensor:
        return self.base.centre.expand(self._extended_shape())

    @property
    def mean(self) -> Tensor:
        return self.centre + self.scale * (self.base.mean - self.base.centre)

    @property
    def variance(self) -> Tensor:
        return self.base.variance * self.scale.square()

    @property
    def covariance_matrix(self) -> Tensor:
        return self.base.covariance_matrix * self.scale.square().unsqueeze(-1)

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        shape = self._extended_shape(sample_shape)[:-1]
        drawn = self.base.rsample(shape[: len(shape) - len(self.base.batch_shape)])
        return self.base.centre + self.scale * (drawn - self.base.centre)

    def log_prob(self, value: Tensor) -> Tensor:
        inside = self.base.centre + (value - self.base.centre) / self.scale
        return self.base.log_prob(inside) - self.dim * self.scale.squeeze(-1).log()
