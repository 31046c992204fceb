"""Batch normalisation whose batch is that of all ranks, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gje_world.objectives.statistics import distributed, mean_over_ranks
from gje_world.options import ConfigError


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of `[N, F]` or `[N, C, H, W]` with statistics over all ranks while training.

    torch's own `SyncBatchNorm` does the same, on GPUs alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed()):
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            mean = mean_over_ranks(x.mean(axes))
            centred = x - mean.view(shape)
            variance = mean_over_ranks(centred.square().mean(axes))
            self.follow(mean, variance, x.numel() // x.shape[1] * torch.distributed.get_world_size())
            normed = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)

    @torch.no_grad()
    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Draw the running statistics after those `[F]` of a batch of `count` values for each feature."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 4):
            raise ValueError(f"batch normalisation takes [N, F] or [N, C, H, W], got {list(input.shape)}")


def over_ranks(module: nn.Module) -> None:
    """Put a `GlobalBatchNorm` in place of each batch normalisation within `module`, with its parameters.

    Raises:
        ConfigError: one does more than normalise, as those of timm that hold an activation.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d):
                kind = type(child).__name__
                raise ConfigError(
                    f"engine.devices must be 1: the encoder's {kind} layers do more than normalise"
                )
            made = GlobalBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            made.load_state_dict(child.state_dict())
            made.train(child.training)
            for own, replaced in zip(made.parameters(), child.parameters(), strict=True):
                own.requires_grad_(replaced.requires_grad)  # none in moving averages
            setattr(module, name, made)
        else:
            over_ranks(child)
