"""Evaluation of an agent: returns, what its embeddings hold, and whether its beliefs are calibrated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.surprise import step_surprise
from gje_world.evaluation import NOMINAL, linear_probe_r2, observed_coverage
from gje_world.plots.film import write_film
from gje_world.training.signals import Stop

REAL_TIME = 50  # env frames a second at which a film plays
CHUNK = 500  # beliefs looked at at once: what is estimated from draws takes hundreds of each


@dataclass
class Episode:
    """What one evaluation episode of L agent steps left behind."""

    rewards: list[float] = field(default_factory=list)  # L
    uncertainty: list[float] = field(default_factory=list)  # L predicted standard deviations
    actions: list[Tensor] = field(default_factory=list)  # L of [A]
    z: list[Tensor] = field(default_factory=list)  # L+1 embeddings [D]
    states: list[np.ndarray] = field(default_factory=list)  # L+1 true states [S]; empty where not told
    frames: list[np.ndarray] = field(default_factory=list)  # L+1 images [H, W, 3]; empty unless filmed

    @property
    def total(self) -> float:
        return float(sum(self.rewards))


@torch.no_grad()
def play(
    agent: Agent,
    envs: list[gymnasium.Env],
    seeds: list[int],
    max_steps: int | None,
    stop: Stop | None = None,
) -> list[Episode]:
    """Play one episode in each environment at once, planning for all of them in one batch.

    Arguments:
        envs: environments of one task.
        seeds: one an environment.
        max_steps: agent steps after which an episode that does not end by itself is stopped.
        stop: looked at before each decision.

    Returns the episodes, the first with its frames.

    Raises:
        Stopped: someone has asked to stop.
    """
    agent.reset()
    episodes = [Episode() for _ in envs]
    obs: list[np.ndarray] = []

    def see(i: int, info: dict) -> None:
        if "state" in info:
            episodes[i].states.append(info["state"])
        if i == 0:
            episodes[0].frames.append(np.asarray(envs[0].render()))

    for i, (env, seed) in enumerate(zip(envs, seeds, strict=True)):
        first, info = env.reset(seed=seed)
        obs.append(first)
        see(i, info)
    running = list(range(len(envs)))
    while running:
        if stop is not None:
            stop.check()
        # ended episodes stay in the batch: the planner's warm start has one row an environment
        batch = torch.as_tensor(np.stack(obs), device=agent.device)
        action, z, uncertainty = (part.cpu() for part in agent.decide(batch, explore=False))
        for i in list(running):
            episode = episodes[i]
            obs[i], reward, terminated, truncated, info = envs[i].step(action[i].numpy())
            episode.rewards.append(float(reward))
            episode.uncertainty.append(float(uncertainty[i]))
            episode.actions.append(action[i])
            episode.z.append(z[i])
            see(i, info)
            if terminated or truncated or len(episode.actions) == max_steps:
                running.remove(i)
    last = agent.embed(torch.as_tensor(np.stack(obs), device=agent.device)).cpu()
    for episode, z_end in zip(episodes, last, strict=True):
        episode.z.append(z_end)
    return episodes


def summarise(agent: Agent, episodes: list[Episode], state_names: tuple[str, ...]) -> dict:
    """Returns, state probe and calibration of `episodes`, as one row of metrics.

    The probe is fitted on every other episode and tested on the rest; with a single episode there is none.
    It is NaN for what never changes within an episode.
    """
    returns = [episode.total for episode in episodes]
    row = {
        "eval/return_mean": float(np.mean(returns)),
        "eval/return_std": float(np.std(returns)),
        "eval/returns": returns,
        "planner/uncertainty": float(np.mean([u for e in episodes for u in e.uncertainty])),
    }
    fit, test = episodes[::2], episodes[1::2]
    if test and episodes[0].states:
        z_fit, z_test = (torch.stack([z for e in half for z in e.z]) for half in (fit, test))
        y_fit, y_test = (
            torch.from_numpy(np.stack([state for e in half for state in e.states])) for half in (fit, test)
        )
        r2 = linear_probe_r2(z_fit, y_fit, z_test, y_test)
        # what never changes within an episode is known of as many values as there are episodes: too few
        changes = torch.stack([torch.from_numpy(np.stack(e.states)).std(0) > 1e-6 for e in episodes]).any(0)
        r2 = r2.where(changes, torch.nan)
        row |= {f"probe/r2/{name}": float(value) for name, value in zip(state_names, r2, strict=True)}
    if agent.objective.needs_density:
        row |= calibration(agent, episodes)
    return row


@torch.no_grad()
def calibration(agent: Agent, episodes: list[Episode]) -> dict:
    """Nominal and observed coverage of the one-step belief regions, and its likelihood, on `episodes`."""
    z = torch.stack([z for e in episodes for z in e.z[:-1]]).to(agent.device)
    z_next = torch.stack([z for e in episodes for z in e.z[1:]]).to(agent.device)
    actions = torch.stack([action for e in episodes for action in e.actions]).to(agent.device)
    mass, log_prob = [], []
    for part in zip(z.split(CHUNK), z_next.split(CHUNK), actions.split(CHUNK), strict=True):
        before, after, action = part
        belief = agent.believe(before, action)
        mass.append(belief.coverage(after))
        log_prob.append(belief.log_prob(after))
    return {
        "calibration/nominal": list(NOMINAL),
        "calibration/observed": observed_coverage(torch.cat(mass)).tolist(),
        "eval/nll": float(-torch.cat(log_prob).mean() / z.shape[-1]),
    }


def film_episode(path: Path, agent: Agent, episode: Episode, action_repeat: int) -> None:
    """Write the film of an episode; under it what was uncertain, what surprised, and the rewards."""
    surprised = None
    if agent.objective.needs_density:
        z, actions = torch.stack(episode.z).to(agent.device), torch.stack(episode.actions).to(agent.device)
        # drawn where it is seen; the first frame was not expected, and the last is not shown
        surprised = [float("nan"), *step_surprise(agent, z, actions)[:-1].tolist()]
    write_film(
        path,
        np.stack(episode.frames[:-1]),
        uncertainty=episode.uncertainty,
        surprise=surprised,
        rewards=episode.rewards,
        fps=max(1, round(REAL_TIME / action_repeat)),
    )
