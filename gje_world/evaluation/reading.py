"""A probe that reads a world's variables from embeddings, however they are folded into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from gje_world.networks import mlp

HIDDEN, UPDATES, BATCH, LR = 128, 1_500, 256, 3e-3


@dataclass(frozen=True)
class Reading:
    """A fitted probe, and how far it errs on embeddings it was not fitted to."""

    network: nn.Module
    offset: Tensor  # [D] and [D]: what embeddings are standardised by
    spread: Tensor
    rmse: float  # root mean squared distance of what is read from what is so
    r2: float  # share of the variables' variance that is read, 1 at best

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """The variables `[..., V]` read from `z [..., D]`."""
        rows = (z.flatten(0, -2) - self.offset) / self.spread
        return torch.cat([self.network(part) for part in rows.split(65_536)]).unflatten(0, z.shape[:-1])


def fit_reading(z: Tensor, y: Tensor, z_test: Tensor, y_test: Tensor, seed: int = 0) -> Reading:
    """Fits a perceptron of two layers by squared error, its step falling to zero along a cosine.

    Arguments:
        z, z_test: embeddings `[N, D]`, `[M, D]`.
        y, y_test: variables `[N, V]`, `[M, V]`.
        seed: of the weights and batches; the caller's random state stays as it was.
    """
    offset, spread = z.mean(0), z.std(0).clamp(min=1e-6)
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(mlp(z.shape[1], HIDDEN), nn.Linear(HIDDEN, y.shape[1]))
        optimiser = torch.optim.Adam(network.parameters(), lr=LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
        for _ in range(UPDATES):
            rows = torch.randint(len(z), (BATCH,), generator=generator)
            loss = (network((z[rows] - offset) / spread) - y[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    found = Reading(network.eval().requires_grad_(False), offset, spread, rmse=0.0, r2=0.0)
    error = (found(z_test) - y_test).square().sum(-1).mean()
    variance = (y_test - y_test.mean(0)).square().sum(-1).mean()
    return replace(found, rmse=float(error.sqrt()), r2=1 - float(error / variance))
