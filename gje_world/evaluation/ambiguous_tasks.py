"""Small tasks where one answer is not enough, and whose true distribution is known.

Each draws a context `x [N, 1]` and a target `y [N, D]`, and knows the density of `y` given `x` exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.signal
import torch
from torch import Generator, Tensor
from torch import distributions as td


@dataclass(frozen=True)
class Task:
    """A target `y [N, D]` to be told from a context `x [N, 1]`.

    Arguments:
        dim: dimension `D` of the target.
        noise: standard deviation of the noise, about each mode where there are several.
    """

    dim: int
    noise: float

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Contexts `[N, 1]` and targets `[N, D]`, on the generator's device."""
        x = 2 * rand(count, 1, generator) - 1
        return x, self.draw(x, 1, generator).squeeze(0)

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        """Targets `[S, N, D]`, `count` for each context `x [N, 1]`."""
        raise NotImplementedError

    def truth(self, x: Tensor) -> td.Distribution:
        """Exact distribution of the target, in float64: batch shape `[N]`, event shape `[D]`."""
        raise NotImplementedError

    def modes(self, x: Tensor) -> Tensor | None:
        """Where the target may be, `[N, K, D]`, NaN where there are fewer than `K`; None: it has one mode."""
        return None

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """True log-density `[N]` of `y` given `x`, in float64."""
        return self.truth(x).log_prob(y.double())

    def plane(self, y: Tensor) -> Tensor:
        """The at most two coordinates of `y [..., D]` in which it is not plain noise."""
        return y

    @property
    def radius(self) -> float:
        """Of a mode's neighbourhood."""
        return 2 * self.noise


@dataclass(frozen=True)
class Inverse(Task):
    """A curve in the plane, both coordinates measured with noise: tell the height `y` from the width `x`.

    `y` has a branch wherever the curve passes at `x`. With `u` uniform on [0, 1] along the curve, its density
    is an integral over `u` of Gaussians in `y`, weighted by Gaussians in `x`. Gauss-Legendre quadrature does
    it, exact to rounding, as its places lie closer than the noise is wide.

    Arguments:
        curve: widths and heights of places `u` on the curve; may jump at one half.
    """

    curve: Callable[[Tensor], tuple[Tensor, Tensor]]

    POINTS = 256  # on either half of the curve
    HEIGHTS = 512

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Widths, heights and log-weights of the quadrature, each `[P]`."""
        nodes, weights = (torch.as_tensor(part) for part in np.polynomial.legendre.leggauss(self.POINTS))
        width, height = self.curve(torch.cat([nodes + 1, nodes + 3]) / 4)
        return width, height, weights.repeat(2).log()

    def sample(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        curve = torch.cat(self.curve(rand(count, 1, generator)), -1)
        x, y = (curve + self.noise * randn((count, 2), generator)).split(1, -1)
        return x, y

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        weights, height = self._branches(x)
        chosen = torch.multinomial(weights.softmax(-1), count, replacement=True, generator=generator)
        return height.to(x)[chosen.mT].unsqueeze(-1) + self.noise * randn((count, len(x), 1), generator)

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights `[N, P]`, but for a constant, and heights `[P]` of places on the curve."""
        width, height, weights = (part.to(x.device) for part in self._places)
        return weights - 0.5 * ((x.double() - width) / self.noise).square(), height

    def truth(self, x: Tensor) -> td.Distribution:
        weights, height = self._branches(x)
        places = td.Normal(height.expand_as(weights).unsqueeze(-1), self.noise)
        return td.MixtureSameFamily(td.Categorical(logits=weights), td.Independent(places, 1))

    def modes(self, x: Tensor) -> Tensor:
        """Peaks of the density on a grid of heights, those that stand out by a quarter of the highest."""
        weights, height = self._branches(x.cpu())
        margin = 3 * self.noise
        grid = torch.linspace(float(height.min()) - margin, float(height.max()) + margin, self.HEIGHTS)
        bells = (-0.5 * ((grid - height.unsqueeze(-1)) / self.noise).square()).exp()  # [P, HEIGHTS]
        density = (weights.softmax(-1) @ bells).numpy()  # [N, HEIGHTS], but for a constant
        peaks = [scipy.signal.find_peaks(row, prominence=0.25 * row.max())[0] for row in density]
        modes = np.full((len(x), max(map(len, peaks)), 1), np.nan, dtype=np.float32)
        for row, found in zip(modes, peaks, strict=True):
            row[: len(found), 0] = grid[found]
        return torch.as_tensor(modes, device=x.device)


@dataclass(frozen=True)
class Choice(Task):
    """One of `count` places on a circle that turns with `x`, some likelier than others, plus noise.

    Where `D` is above 2 the circle lies in a random plane of the embedding.
    """

    count: int

    @cached_property
    def _axes(self) -> Tensor:
        """Of the circle's plane and all across it, orthonormal, `[D, D]`."""
        if self.dim == 2:
            return torch.eye(2, dtype=torch.float64)
        turn = torch.randn(
            self.dim, self.dim, generator=Generator().manual_seed(self.dim), dtype=torch.float64
        )
        return torch.linalg.qr(turn)[0]

    def _logits(self, x: Tensor) -> Tensor:
        return x * self._phases(x).cos()

    def _phases(self, x: Tensor) -> Tensor:
        return torch.arange(self.count, dtype=x.dtype, device=x.device) * (2 * math.pi / self.count)

    def modes(self, x: Tensor) -> Tensor:
        angle = self._phases(x) + 0.5 * math.pi * x  # [N, K]
        return torch.stack([angle.cos(), angle.sin()], -1) @ self._axes[:2].to(x)

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        weights = self._logits(x).softmax(-1)
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)  # [N, S]
        places = self.modes(x).take_along_dim(chosen.unsqueeze(-1), 1).movedim(1, 0)
        return places + self.noise * randn(places.shape, generator)

    def truth(self, x: Tensor) -> td.Distribution:
        x = x.double()
        places = td.Independent(td.Normal(self.modes(x), self.noise), 1)
        return td.MixtureSameFamily(td.Categorical(logits=self._logits(x)), places)

    def plane(self, y: Tensor) -> Tensor:
        return y @ self._axes[:2].to(y).mT


@dataclass(frozen=True)
class Heteroscedastic(Task):
    """A sine with noise whose standard deviation varies twentyfold with `x`."""

    def _std(self, x: Tensor) -> Tensor:
        return self.noise * (1.5 * (math.pi * x).cos()).exp()

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        return wave(x) + self._std(x) * randn((count, len(x), 1), generator)

    def truth(self, x: Tensor) -> td.Distribution:
        x = x.double()
        return td.Independent(td.Normal(wave(x), self._std(x)), 1)


@dataclass(frozen=True)
class Correlated(Task):
    """Noise along a line in the plane, ten times longer than wide, that turns with `x` by half a circle."""

    def _factor(self, x: Tensor) -> Tensor:
        """Factor `[N, 2, 2]` of the covariance: columns along the line and across it."""
        angle = 0.5 * math.pi * x
        along = torch.cat([angle.cos(), angle.sin()], -1)
        across = torch.cat([-angle.sin(), angle.cos()], -1)
        return torch.stack([10 * self.noise * along, self.noise * across], -1)

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        return (self._factor(x) @ randn((count, len(x), 2, 1), generator)).squeeze(-1)

    def truth(self, x: Tensor) -> td.Distribution:
        factor = self._factor(x.double())
        return td.MultivariateNormal(factor.new_zeros(len(x), 2), factor @ factor.mT)


@dataclass(frozen=True)
class HeavyTails(Task):
    """A sine with Student-t noise of three degrees of freedom, wider on one side than on the other."""

    DF = 3

    def _scale(self, x: Tensor) -> Tensor:
        return self.noise * (0.5 * x).exp()

    def draw(self, x: Tensor, count: int, generator: Generator) -> Tensor:
        mixing = randn((count, len(x), self.DF), generator).square().mean(-1, keepdim=True)
        return wave(x) + self._scale(x) * randn((count, len(x), 1), generator) / mixing.sqrt()

    def truth(self, x: Tensor) -> td.Distribution:
        x = x.double()
        return td.Independent(td.StudentT(self.DF, wave(x), self._scale(x)), 1)


def wave(x: Tensor) -> Tensor:
    return (math.pi * x).sin()


def rand(count: int, dim: int, generator: Generator) -> Tensor:
    return torch.rand(count, dim, generator=generator, device=generator.device)


def randn(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def sine(u: Tensor) -> tuple[Tensor, Tensor]:
    """A rising sine, read backwards."""
    height = 2 * u - 1
    return height + 0.4 * (2 * math.pi * height).sin(), height


def arcs(u: Tensor) -> tuple[Tensor, Tensor]:
    """Two half circles, one hanging into the other."""
    angle = 2 * math.pi * u  # the second half of it walks the lower arc
    lower = (u >= 0.5).to(u.dtype)
    return angle.cos() + lower - 0.5, angle.sin() + 0.5 * lower - 0.25


def spiral(u: Tensor) -> tuple[Tensor, Tensor]:
    """Two turns from near the middle outwards, at about constant speed."""
    radius = (0.01 + 0.99 * u).sqrt()
    angle = 4 * math.pi * (radius - 0.1) / 0.9
    return radius * angle.cos(), radius * angle.sin()


TASKS: dict[str, Task] = {
    "sine": Inverse(dim=1, noise=0.05, curve=sine),
    "arcs": Inverse(dim=1, noise=0.05, curve=arcs),
    "spiral": Inverse(dim=1, noise=0.05, curve=spiral),
    "two_modes": Choice(dim=2, noise=0.1, count=2),
    "eight_modes": Choice(dim=2, noise=0.1, count=8),
    "two_modes_32": Choice(dim=32, noise=0.1, count=2),
    "eight_modes_32": Choice(dim=32, noise=0.1, count=8),
    "heteroscedastic": Heteroscedastic(dim=1, noise=0.1),
    "correlated": Correlated(dim=2, noise=0.05),
    "heavy_tails": HeavyTails(dim=1, noise=0.2),
}
