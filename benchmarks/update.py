"""Seconds of one gradient update of the default preset, against the same update without what makes it fast.

    python benchmarks/update.py [--csv results/update.csv]

Plain is: float32, images channels first, the C allocator as it comes, random shifts by indexing each pixel.
Each measurement runs in a process of its own (the allocator's settings are a process's), the two kinds in
turn, and the median of the rounds counts.
"""

from __future__ import annotations

import time
from unittest.mock import patch

import torch
from measure import fast_against_plain
from torch import Tensor

from agents.agent import Agent, discount_for
from agents.building import make_agent
from agents.config import TrainConfig
from agents.replay import Batch
from gje_world.networks import ConvEncoder
from gje_world.training.devices import Precision, keep_freed_memory, set_threads

ACTION_DIM = 1  # cartpole's
EPISODE_STEPS = 125
WARM_UP = 3  # updates


class PlainEncoder(ConvEncoder):
    """The same function of the same parameters as its author would first write it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.to(memory_format=torch.contiguous_format)

    def forward(self, obs: Tensor) -> Tensor:
        lead = obs.shape[:-3]
        x = (obs.reshape(-1, *obs.shape[-3:]).float() - self.mean_frame) * self.inverse_std
        return self.project(self.rest(self.first(x)).flatten(1)).reshape(*lead, self.dim)


def shift_by_indexing(images: Tensor, offsets: Tensor) -> Tensor:
    """What `shift` does to `images [T, B, C, H, W]` by `offsets [T, B, 2]`, each pixel looked up."""
    lead, (channels, height, width) = images.shape[:2], images.shape[2:]
    images, offsets = images.reshape(-1, channels, height, width), offsets.reshape(-1, 2)
    rows = (torch.arange(height) - offsets[:, :1]).clamp(0, height - 1)  # [T*B, H]
    columns = (torch.arange(width) - offsets[:, 1:]).clamp(0, width - 1)  # [T*B, W]
    shifted = images[
        torch.arange(len(images))[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    return shifted.unflatten(0, lead)


def fast_update(updates: int, threads: int | None) -> float:
    """Seconds of an update as `gje-train` does it on this CPU."""
    keep_freed_memory()
    set_threads(threads)
    return _seconds(default_agent(Precision.auto), updates)


def plain_update(updates: int, threads: int | None) -> float:
    """Seconds of the same update written plainly."""
    set_threads(threads)
    with (
        patch("gje_world.world_model.ConvEncoder", PlainEncoder),
        patch("agents.agent.shift", shift_by_indexing),
    ):
        return _seconds(default_agent(Precision.float32), updates)


def default_agent(precision: Precision) -> Agent:
    """A new agent of the default preset."""
    torch.manual_seed(0)
    return make_agent(TrainConfig(device="cpu", precision=precision), ACTION_DIM, discount_for(EPISODE_STEPS))


def _seconds(agent: Agent, updates: int) -> float:
    config = TrainConfig()
    steps, size, side = config.agent.horizon, config.batch_size, config.env.image_size
    batch = Batch(
        frames=torch.randint(
            0, 256, (size, config.env.frame_stack + steps, 3, side, side), dtype=torch.uint8
        ),
        action=2 * torch.rand(steps, size, ACTION_DIM) - 1,
        reward=torch.rand(steps, size),
        terminated=torch.zeros(steps, size),
    )
    for _ in range(WARM_UP):
        agent.update(batch, gauges=False)
    start = time.perf_counter()
    for _ in range(updates):
        agent.update(batch, gauges=False)
    return (time.perf_counter() - start) / updates


if __name__ == "__main__":
    fast_against_plain(
        __doc__, fast_update, plain_update, timed="update", count=20, batch_size=TrainConfig().batch_size
    )
