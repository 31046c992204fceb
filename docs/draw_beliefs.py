"""Draws the picture on each belief's page: its density in two dimensions, and draws from it.

python docs/draw_beliefs.py
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import zuko
from matplotlib.figure import Figure

from gje_world.beliefs import (
    Belief,
    CovarianceGaussian,
    DiagonalGaussian,
    Ensemble,
    Flow,
    LowRankGaussian,
    Mixture,
    Polar,
    PowerSpherical,
    PrecisionGaussian,
    SpectralGaussian,
    StudentT,
)
from gje_world.plots.style import styled

FOLDER = Path(__file__).parent / "beliefs"
REACH, CELLS, DRAWS = 3.0, 300, 300


def examples() -> dict[str, Belief]:
    """One belief of each family over two dimensions."""
    zero, std = torch.zeros(2), torch.tensor([0.9, 0.5])
    tril = torch.tensor([[0.9, 0.0], [0.5, 0.4]])
    turn = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    direction = PowerSpherical(torch.tensor([0.8, 0.6]), torch.tensor(12.0))
    means = torch.tensor([[-1.5, -0.5], [1.4, -1.0], [0.3, 1.4]])
    return {
        "diagonal": DiagonalGaussian(zero, std),
        "low_rank": LowRankGaussian(zero, torch.tensor([0.4, 0.4]), torch.tensor([[2.0], [1.5]])),
        "full": PrecisionGaussian(zero, torch.linalg.inv(tril)),
        "full_covariance": CovarianceGaussian(zero, tril),
        "spectral": SpectralGaussian(zero, torch.tensor([1.2, 0.4]), turn),
        "mixture": Mixture(
            torch.tensor([0.5, 0.3, 0.2]).log(), DiagonalGaussian(means, torch.full((3, 2), 0.35))
        ),
        "student_t": StudentT(zero, 0.6 * std, torch.tensor(2.5)),
        "polar": Polar(direction, torch.tensor(0.5), torch.tensor(0.15)),
        "power_spherical": direction,
        "flow": bent(),
        "ensemble": Ensemble([DiagonalGaussian(mean, std / 2) for mean in means]),
    }


def bent() -> Flow:
    """A flow fitted to a bow."""
    torch.manual_seed(0)
    model = zuko.flows.NSF(2, transforms=3, passes=2, hidden_features=(32, 32))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(500):
        x = torch.randn(256)
        bow = torch.stack([x, x.square() / 1.5 - 1 + 0.2 * torch.randn(256)], -1)
        optimiser.zero_grad()
        (-model().log_prob(bow).mean()).backward()
        optimiser.step()
    return Flow(torch.zeros(2), torch.ones(2), model())


@styled
@torch.no_grad()
def draw(name: str, belief: Belief) -> None:
    """Density as shading, draws as dots; a belief over directions as dots on the circle."""
    torch.manual_seed(0)
    drawn = belief.sample((DRAWS,))
    figure = Figure(figsize=(3.2, 3.2), layout="constrained")
    axes = figure.subplots()
    if not isinstance(belief, PowerSpherical):
        axis = torch.linspace(-REACH, REACH, CELLS)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        density = belief.log_prob(grid).exp()
        axes.imshow(density, origin="lower", extent=(-REACH, REACH, -REACH, REACH), cmap="Blues")
    axes.plot(*drawn.T, ".", color="C1", markersize=2)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xlabel="z₁", ylabel="z₂")
    figure.savefig(FOLDER / f"{name}.png", dpi=90)


if __name__ == "__main__":
    for name, belief in examples().items():
        draw(name, belief)
