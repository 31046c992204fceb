"""What every objective is: how a belief and its target become a loss."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gje_world.beliefs import Belief
from gje_world.objectives.marginal import MARGINALS

TARGETS = ("online", "stop_gradient", "momentum")


class Objective(nn.Module):
    r"""Loss of predictions plus a weighted marginal term of the embeddings.

    What an objective learns itself are its parameters, what it remembers its buffers. All arithmetic is in
    float32, outside autocast.

    Arguments:
        dim: embedding dimension `D`.
        marginal: name of the marginal term (`gje_world.objectives.MARGINALS`).
        marginal_weight: its weight :math:`\lambda`.
        target: `online`: gradients flow into the target as into the context; `stop_gradient`: they do not;
            `momentum`: the trainer embeds targets with a moving average of the encoder, and they do not.
        momentum: decay of that moving average, a gradient step.

    Raises:
        ValueError: an option has a value that cannot work.
    """

    name = "objective"  # that in `OBJECTIVES`
    needs_density: ClassVar[bool] = True  # whether the belief must have one
    beliefs: tuple[str, ...] = ()  # the only ones that fit; empty: any
    resolution: float = 0.0  # of its likelihood, where it has one
    contrast: float = 0.0  # share of the loss that `compare` is to have, where it has that

    def __init__(
        self,
        dim: int,
        *,
        marginal: str = "gaussian_kl",
        marginal_weight: float = 1.0,
        target: str = "online",
        momentum: float = 0.99,
    ):
        super().__init__()
        require_one_of("marginal", marginal, tuple(MARGINALS))
        require_one_of("target", target, TARGETS)
        require(0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
        require(marginal_weight >= 0, "marginal_weight", marginal_weight, "at least 0")
        self.dim, self.target, self.momentum = dim, target, momentum
        self.marginal_name, self.marginal_weight = marginal, marginal_weight

    def momentum_encoder(self, encoder: nn.Module) -> AveragedModel | None:
        """Moving average of `encoder` that embeds targets where `target="momentum"`, else None.

        It begins as a copy at the first `update_parameters(encoder)`, to be called once in each update, and
        takes no gradient.
        """
        if self.target != "momentum":
            return None
        average = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(self.momentum), use_buffers=True)
        return average.requires_grad_(False)

    def require_belief(self, name: str) -> None:
        """Refuses beliefs of that name where this objective cannot learn them.

        Raises:
            ValueError: naming those it can.
        """
        if self.beliefs and name not in self.beliefs:
            fit = " or ".join(self.beliefs)
            raise ValueError(f"objective={self.name} needs belief={fit}; got belief={name}")

    def loss(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Loss `[...]` of each prediction of float32 `z_target [..., D]`; what a subclass tells."""
        raise NotImplementedError

    def predict(self, belief: Belief, z_target: Tensor) -> Tensor:
        """Loss `[...]` of each prediction of `z_target [..., D]`; likelihoods are in nats per dimension.

        Raises:
            ValueError: this objective cannot learn such a belief.
        """
        self.require_belief(belief.name)
        with torch.autocast(z_target.device.type, enabled=False):
            return self.loss(belief, self._taught(z_target))

    def _taught(self, z_target: Tensor) -> Tensor:
        """Targets in float32, with a gradient where they are to learn from the loss."""
        return (z_target if self.target == "online" else z_target.detach()).float()

    def comparison(self, critic: Belief, z_target: Tensor) -> Tensor:
        """As `compare`, of float32 `z_target`; what a subclass tells that has a share of contrast."""
        raise NotImplementedError

    def compare(self, critic: Belief, z_target: Tensor) -> Tensor:
        """Loss `[..., N]` of telling which context each of `z_target [..., N, D]` came after, in nats per
        dimension, by the densities that beliefs `critic [..., N]` of all contexts give it."""
        with torch.autocast(z_target.device.type, enabled=False):
            return self.comparison(critic, self._taught(z_target))

    def marginal(self, z: Tensor) -> Tensor:
        """Weighted marginal term of all embeddings `z [..., D]` of the batch, a scalar."""
        if not self.marginal_weight:
            return z.new_zeros(())
        with torch.autocast(z.device.type, enabled=False):
            return self.marginal_weight * MARGINALS[self.marginal_name](z.float())


def negative_log_likelihood(belief: Belief, z_target: Tensor, resolution: float) -> Tensor:
    """Of `z_target [..., D]` at a finite resolution (`Belief.learning_log_prob`), per dimension, `[...]`."""
    return -belief.learning_log_prob(z_target, resolution) / z_target.shape[-1]


def require(holds: bool, name: str, value: object, right: str) -> None:
    """Refuses the `value` of an objective's option.

    Raises:
        ValueError: it does not hold, or is infinite.
    """
    if not holds:
        raise ValueError(f"objective.{name}={value} must be {right}")
    if value == math.inf:
        raise ValueError(f"objective.{name}={value} must be finite")


def require_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuses a `value` that is not among the `known`.

    Raises:
        ValueError: it is not.
    """
    require(value in known, name, value, f"one of {', '.join(known)}")
