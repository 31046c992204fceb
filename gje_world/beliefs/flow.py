"""Normalising-flow belief: any shape, when no named distribution fits."""

from __future__ import annotations

import torch
import zuko
from torch import Tensor, nn
from torch.types import _size

from gje_world.beliefs.belief import EMPTY, Belief
from gje_world.beliefs.head import LOG_STD_BOUNDS, BoundedScale, linear, of_numbers

MOMENT_SAMPLES = 32  # of mean and variance, which a world model asks for at every step


class Flow(Belief):
    r"""Belief over :math:`v = \mu + \sigma x` where `x` follows a normalising flow.

    Mean and variance are Monte Carlo estimates from 32 draws, entropy and regions from 199.

    Arguments:
        location: :math:`\mu`, shape `[..., D]`.
        scale: :math:`\sigma > 0`, shape `[..., D]`.
        flow: distribution of `x`, event shape `[D]`.
    """

    name = "flow"

    def __init__(self, location: Tensor, scale: Tensor, flow: zuko.distributions.NormalizingFlow):
        self.location, self.scale, self.flow = location, scale, flow
        self._estimates: dict[bool, tuple[Tensor, Tensor]] = {}  # with a graph, and without one
        super().__init__(location.shape[:-1], location.shape[-1])

    def _moments(self) -> tuple[Tensor, Tensor]:
        graph = torch.is_grad_enabled()
        if graph not in self._estimates:
            drawn = self.rsample((MOMENT_SAMPLES,))
            self._estimates[graph] = drawn.mean(0), drawn.var(0)
        return self._estimates[graph]

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def centre(self) -> Tensor:
        return self.location

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def rsample(self, sample_shape: _size = EMPTY) -> Tensor:
        with torch.autocast(self.location.device.type, enabled=False):
            return self.location + self.scale * self.flow.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            x = (value.to(self.location.dtype) - self.location) / self.scale
            return self.flow.log_prob(x) - self.scale.log().sum(-1)

    def translate(self, offset: Tensor) -> Flow:
        return Flow(self.location + offset, self.scale, self.flow)


class FlowHead(nn.Module):
    """Head that returns a :class:`Flow`: neural spline couplings (Durkan et al., 2019), by zuko.

    Arguments:
        features: number of input features `F`.
        dim: embedding dimension `D`.
        transforms: spline layers.
        hidden: width of the networks that set the splines.
        log_std_bounds: lowest and highest natural logarithm of the scale.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        transforms: int = 3,
        hidden: int = 64,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
    ):
        super().__init__()
        if transforms < 1:
            raise ValueError(f"transforms must be at least 1, got {transforms}")
        self.scale = BoundedScale(log_std_bounds)
        self.linear = linear(features, 2 * dim)
        with of_numbers():
            # two passes make each layer a coupling, as quick to sample from as to evaluate
            self.flow = zuko.flows.NSF(
                dim,
                context=features,
                transforms=transforms,
                passes=min(2, dim),
                hidden_features=(hidden, hidden),
            )

    def forward(self, features: Tensor) -> Flow:
        location, raw = self.linear(features).float().chunk(2, dim=-1)
        with torch.autocast(raw.device.type, enabled=False):
            return Flow(location, self.scale(raw), self.flow(features.float()))
