"""Frames of an environment under a random policy, rendered on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from gje_world.data.images import Images, Split

HELD_OUT = 5  # every so manieth episode is held out, so that no frame's neighbours are learnt from
LICENCE = "rendered by this run"


def random_frames(
    env: gymnasium.Env,
    count: int,
    seed: int,
    *,
    every: int = 1,
    advance: Callable[[int], object] = lambda count: None,
) -> Split:
    """`count` observations of an agent that acts at random, whole episodes of them held out.

    Arguments:
        env: of `envs.make`: observations uint8 `[C, H, W]`; `info["state"]` is used where it is there.
        seed: of episodes and actions.
        every: agent steps between frames that are kept.
        advance: called with 1 for each frame kept.
    """
    assert env.action_space.shape is not None
    generator = np.random.default_rng([seed, 1])  # not that which the environment starts with
    kept: list[torch.Tensor] = []
    states: list[Any] = []
    episodes: list[int] = []
    episode = 0
    while len(kept) < count:
        obs, info = env.reset(seed=seed * 1_000_003 + episode)
        step, ended = 0, False
        while not ended and len(kept) < count:
            if step % every == 0:
                kept.append(torch.from_numpy(obs.copy()))
                states.append(info.get("state"))
                episodes.append(episode)
                advance(1)
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            obs, _, terminated, truncated, info = env.step(action)
            step, ended = step + 1, terminated or truncated
        episode += 1
    known = all(state is not None for state in states)
    images = Images(
        torch.stack(kept),
        states=torch.from_numpy(np.stack(states)).float() if known else None,
        state_names=env.get_wrapper_attr("state_names") if known else (),
    )
    held_out = torch.tensor(episodes) % HELD_OUT == HELD_OUT - 1
    if not held_out.any():  # few episodes: the last frames then
        held_out = torch.arange(len(kept)) >= len(kept) * (HELD_OUT - 1) // HELD_OUT
    train, test = (images.pick(which.nonzero().squeeze(1)) for which in (~held_out, held_out))
    return Split(train, test, LICENCE)
