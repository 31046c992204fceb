"""Batch normalisation whose batch is that of all ranks, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gje_world.objectives.statistics import distributed, mean_over_ranks


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm` over `[N, F]` or `[N, C, H, W]`, with statistics over all ranks while training.

    torch's own `SyncBatchNorm` does the same on GPUs alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 4):
            raise ValueError(f"BatchNorm takes [N, F] or [N, C, H, W], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and distributed()):
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        x = input.float()
        mean = mean_over_ranks(x.mean(axes))
        centred = x - mean.view(shape)
        variance = mean_over_ranks(centred.square().mean(axes))
        with torch.no_grad():
            count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normed = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)
