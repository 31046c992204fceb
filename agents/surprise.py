"""How surprised the agent's belief is by what happens, and whether that is more than it is used to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent, stack_frames
from agents.replay import Batch, Replay, ReplayError
from gje_world.evaluation.scores import surprise

LONGEST = 1_000  # last steps of an episode that count
USUAL = 512  # transitions of the replay that an episode is held against


def episode_surprise(agent: Agent, replay: Replay, generator: np.random.Generator) -> dict[str, float]:
    """The belief's out-of-distribution score of the newest episode, as metrics.

    `ood/score` is the mean of `-log p(z' | z, a) / D` in nats. `ood/percentile` is the share of the replay's
    transitions that surprise less than one of the episode, mean over the episode, in percent: 50 where the
    episode is like the replay, towards 100 where the agent has come to what it does not know.

    Both are found after the episode, with the weights of then. Empty where the belief has no density, or the
    replay no transition to show.
    """
    if not agent.objective.needs_density:
        return {}
    try:
        usual = transition_surprise(agent, replay.sample(generator, USUAL, 1)).sort().values
        here = transition_surprise(agent, replay.newest_episode(LONGEST))
    except ReplayError:
        return {}
    rank = (torch.searchsorted(usual, here) + torch.searchsorted(usual, here, right=True)) / (2 * len(usual))
    return {"ood/score": float(here.mean()), "ood/percentile": 100 * float(rank.mean())}


@torch.no_grad()
def transition_surprise(agent: Agent, batch: Batch) -> Tensor:
    """Surprise of each transition of `batch`, on the CPU, `[T * B]`."""
    batch = batch.to(agent.device)
    z = agent.embed(stack_frames(batch.frames, agent.frame_stack))  # [T+1, B, D]
    return step_surprise(agent, z, batch.action).flatten().cpu()


@torch.no_grad()
def step_surprise(agent: Agent, z: Tensor, action: Tensor) -> Tensor:
    """Surprise `[T, ...]` of the belief at each next one of embeddings `z [T+1, ..., D]`, after `action`."""
    return surprise(agent.believe(z[:-1], action), z[1:])
