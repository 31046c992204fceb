"""Where the images come from that encoders are measured on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gje_world.options import ConfigError
from gje_world.probing.data import ProbeData
from gje_world.recording import CHANNELS, EPISODE_SEEDS, RecordConfig, environment_and_policy, play

HELD_OUT = 4  # every so many episodes one is tested on
PROBE_SEED = 7_000  # its episodes are no other seed's


def rendered_frames(task: str, episodes: int, channels: int, image_size: int) -> ProbeData:
    """Frames of a random policy with their true states; every fourth episode is for testing.

    Arguments:
        channels: of an observation: a multiple of 3, the frames stacked in it, oldest first.

    Raises:
        ConfigError: there is no such task, or frames cannot be stacked so.
    """
    if channels % CHANNELS:
        raise ConfigError(
            f"data=frames gives stacks of {CHANNELS}-channel frames, the encoder takes {channels} channels"
        )
    env, begin = environment_and_policy(RecordConfig(task=task, image_size=image_size, seed=PROBE_SEED))
    names = env.get_wrapper_attr("state_names")
    stacks: dict[bool, list[Tensor]] = {False: [], True: []}
    known: dict[bool, list[Tensor]] = {False: [], True: []}
    try:
        for episode in range(episodes):
            seed = PROBE_SEED * EPISODE_SEEDS + episode
            frames, _, true = play(env, begin(seed), seed)
            test = episode % HELD_OUT == HELD_OUT - 1
            stacks[test].append(torch.from_numpy(stacked(frames, channels // CHANNELS)))
            if true is not None:
                known[test].append(torch.from_numpy(true))
    finally:
        env.close()
    states = [torch.cat(known[part]) if known[part] else None for part in (False, True)]
    return ProbeData(
        task,
        torch.cat(stacks[False]),
        torch.cat(stacks[True]),
        states_train=states[0],
        states_test=states[1],
        state_names=names,
    )


def stacked(frames: np.ndarray, count: int) -> np.ndarray:
    """Observations `[T, K*C, H, W]` of an episode's `frames [T, C, H, W]`, `K = count`, oldest frame first.

    Before the first frame stands that frame again.
    """
    places = np.maximum(np.arange(len(frames))[:, None] + np.arange(1 - count, 1), 0)
    return frames[places].reshape(len(frames), -1, *frames.shape[2:])
