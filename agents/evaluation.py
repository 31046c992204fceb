"""Evaluation of an agent: returns, what its embeddings hold, and whether its beliefs are calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from gje_world.evaluation import NOMINAL, linear_probe_r2, observed_coverage
from gje_world.plots.film import write_film

REAL_TIME = 50  # env frames a second at which a film plays


@dataclass
class Episode:
    """What one evaluation episode left behind, for its L agent steps."""

    rewards: list[float]
    z: Tensor  # [L+1, D], embeddings of all observations
    actions: Tensor  # [L, A]
    uncertainty: list[float]  # L predicted standard deviations
    states: np.ndarray | None  # [L+1, S] true states where the environment tells them
    frames: list[np.ndarray]  # L+1 images [H, W, 3]; empty unless filmed

    @property
    def total(self) -> float:
        return float(sum(self.rewards))


@torch.no_grad()
def play(
    agent: Agent, envs: list[gymnasium.Env], seeds: list[int], max_steps: int | None, film: bool = True
) -> list[Episode]:
    """Play one episode in each environment at once, planning for all of them in one batch.

    Arguments:
        envs: environments of one task.
        seeds: one a environment.
        max_steps: agent steps after which an episode that does not end by itself is stopped.
        film: keep the frames of the first environment.
    """
    agent.reset()
    episodes = [Episode([], torch.empty(0), torch.empty(0), [], None, []) for _ in envs]
    z: list[list[Tensor]] = [[] for _ in envs]
    actions: list[list[Tensor]] = [[] for _ in envs]
    states: list[list[np.ndarray]] = [[] for _ in envs]
    obs, running = [], list(range(len(envs)))
    for i, (env, seed) in enumerate(zip(envs, seeds, strict=True)):
        first, info = env.reset(seed=seed)
        obs.append(first)
        if "state" in info:
            states[i].append(info["state"])
    if film:
        episodes[0].frames.append(envs[0].render())
    while running:
        # ended episodes stay in the batch: the planner's warm start is one row an environment
        action, embedding, uncertainty = agent.decide(
            torch.as_tensor(np.stack(obs), device=agent.device), False
        )
        action, embedding, uncertainty = action.cpu(), embedding.cpu(), uncertainty.tolist()
        for i in list(running):
            obs[i], reward, terminated, truncated, info = envs[i].step(action[i].numpy())
            z[i].append(embedding[i])
            actions[i].append(action[i])
            episodes[i].rewards.append(float(reward))
            episodes[i].uncertainty.append(uncertainty[i])
            if "state" in info:
                states[i].append(info["state"])
            if film and i == 0:
                episodes[0].frames.append(envs[0].render())
            if terminated or truncated or len(actions[i]) == max_steps:
                running.remove(i)
    last = agent.embed(torch.as_tensor(np.stack(obs), device=agent.device)).cpu()
    for i, episode in enumerate(episodes):
        episode.z = torch.stack([*z[i], last[i]])
        episode.actions = torch.stack(actions[i])
        episode.states = np.stack(states[i]) if states[i] else None
    return episodes


def summarise(agent: Agent, episodes: list[Episode], state_names: tuple[str, ...]) -> dict:
    """Returns, state probe and calibration of `episodes`, as one row of metrics.

    The probe is fitted on every other episode and tested on the rest; with a single episode there is none.
    """
    returns = [episode.total for episode in episodes]
    row = {
        "eval/return_mean": float(np.mean(returns)),
        "eval/return_std": float(np.std(returns)),
        "eval/returns": returns,
        "planner/uncertainty": float(np.mean([u for e in episodes for u in e.uncertainty])),
    }
    fit, test = episodes[::2], episodes[1::2]
    if test and episodes[0].states is not None:
        pairs = [
            (torch.cat([e.z for e in half]), torch.cat([torch.as_tensor(e.states) for e in half]))
            for half in (fit, test)
        ]
        r2 = linear_probe_r2(*pairs[0], *pairs[1])
        row |= {f"probe/r2/{name}": float(value) for name, value in zip(state_names, r2, strict=True)}
    if agent.objective.needs_density:
        row |= calibration(agent, episodes)
    return row


@torch.no_grad()
def calibration(agent: Agent, episodes: list[Episode]) -> dict:
    """Nominal and observed coverage of the one-step belief regions, and its likelihood, on `episodes`."""
    z = torch.cat([e.z[:-1] for e in episodes]).to(agent.device)
    z_next = torch.cat([e.z[1:] for e in episodes]).to(agent.device)
    belief = agent.believe(z, torch.cat([e.actions for e in episodes]).to(agent.device))
    return {
        "calibration/nominal": list(NOMINAL),
        "calibration/observed": observed_coverage(belief.coverage(z_next)).tolist(),
        "eval/nll": float(-belief.log_prob(z_next).mean() / z.shape[-1]),
    }


def film_episode(path: Path, episode: Episode, action_repeat: int) -> None:
    """Write the film of an episode, with the predicted uncertainty and the rewards drawn under it."""
    frames = np.stack(episode.frames[:-1])
    fps = max(1, round(REAL_TIME / action_repeat))
    write_film(path, frames, uncertainty=episode.uncertainty, rewards=episode.rewards, fps=fps)
