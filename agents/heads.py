"""The agent's heads on embeddings: two-hot scalars, the critic ensemble, the policy prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gje_world.networks import EnsembleMLP, mlp
from gje_world.networks.mlp import ALL

RARELY = -5.0  # logit of a terminal state before any has been seen


def symlog(x: Tensor) -> Tensor:
    """Signed logarithm `sign(x) ln(1 + |x|)`."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """A scalar as a categorical over symlog-spaced bins (Hafner et al., 2023, eq. 9–11).

    Arguments:
        bins: number of bins.
        bound: the outermost bins lie at `symlog(x) = ±bound`.
    """

    centres: Tensor

    def __init__(self, bins: int = 101, bound: float = 10.0):
        super().__init__()
        self.bins, self.bound = bins, bound
        self.register_buffer("centres", torch.linspace(-bound, bound, bins), persistent=False)

    def encode(self, value: Tensor) -> Tensor:
        """Probabilities `[..., bins]` whose mean in symlog space is `symlog(value)`, clipped to the bound."""
        position = (
            (symlog(value).clamp(-self.bound, self.bound) + self.bound) * (self.bins - 1) / (2 * self.bound)
        )
        # a NaN goes to some bin and stays NaN in the shares: it is the loss that must tell of it
        low = position.floor().clamp(max=self.bins - 2).nan_to_num()
        share = (position - low).unsqueeze(-1)
        low = low.long().unsqueeze(-1)
        probabilities = torch.zeros(*value.shape, self.bins, device=value.device)
        return probabilities.scatter(-1, low, 1 - share).scatter(-1, low + 1, share)

    def decode(self, logits: Tensor) -> Tensor:
        """Scalar `[...]` that `logits [..., bins]` stand for."""
        with torch.autocast(logits.device.type, enabled=False):  # which would round the values themselves
            return symexp(torch.linalg.vecdot(logits.float().softmax(-1), self.centres))

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy `[...]` of `logits [..., bins]` against the two-hot code of `value [...]`."""
        with torch.autocast(logits.device.type, enabled=False):
            return -torch.linalg.vecdot(self.encode(value), logits.float().log_softmax(-1))


class RewardHead(nn.Module):
    """Reward logits `[..., bins]` of an embedding and an action."""

    def __init__(self, dim: int, action_dim: int, hidden: int, bins: int):
        super().__init__()
        self.net = mlp(dim + action_dim, hidden)
        self.out = nn.Linear(hidden, bins)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        return self.out(self.net(torch.cat([z, action], dim=-1)))


class TerminationHead(nn.Module):
    """Probability `[...]` that an action taken at an embedding ends the episode in a terminal state."""

    def __init__(self, dim: int, action_dim: int, hidden: int):
        super().__init__()
        self.net = mlp(dim + action_dim, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, RARELY)

    def logit(self, z: Tensor, action: Tensor) -> Tensor:
        """Its logit, `[...]`."""
        return self.out(self.net(torch.cat([z, action], dim=-1))).squeeze(-1).float()

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        return self.logit(z, action).sigmoid()


class Critics(nn.Module):
    """Ensemble of action values: logits `[E, ..., bins]` of an embedding and an action, by all or by some."""

    def __init__(self, members: int, dim: int, action_dim: int, hidden: int, bins: int):
        super().__init__()
        self.members = members
        self.net = EnsembleMLP(members, dim + action_dim, hidden, bins)

    def forward(self, z: Tensor, action: Tensor, members: Tensor | slice = ALL) -> Tensor:
        return self.net(torch.cat([z, action], dim=-1), members)

    def pair(self) -> Tensor:
        """Two different members at random, `[2]`; the one where there is but one. Drawn on the CPU, for which
        no device is waited for."""
        return torch.randperm(self.members)[:2].to(self.net.scales.device, non_blocking=True)


class Policy(nn.Module):
    """Squashed Gaussian policy prior with a bounded log standard deviation (TD-MPC2)."""

    LOG_STD = (-10.0, 2.0)

    def __init__(self, dim: int, action_dim: int, hidden: int):
        super().__init__()
        self.net = mlp(dim, hidden)
        self.out = nn.Linear(hidden, 2 * action_dim)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled action `[..., A]` in [-1, 1] and its negative log-density `[...]`."""
        mean, raw = self.out(self.net(z)).float().chunk(2, dim=-1)
        low, high = self.LOG_STD
        log_std = low + 0.5 * (high - low) * (raw.tanh() + 1)
        noise = torch.randn_like(mean)
        before = mean + noise * log_std.exp()
        surprise = (0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        # ln(1 - tanh(x)^2) = 2 (ln 2 - x - softplus(-2x)), stable for large |x|
        squash = 2 * (math.log(2) - before - F.softplus(-2 * before))
        return before.tanh(), surprise + squash.sum(-1)
