"""World-model training alone: random-policy frames of a task, no reward and no value, then a probe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import envs
from agents.agent import AgentConfig, stack_frames
from agents.replay import Replay
from gje_world import WorldModel
from gje_world.data import random_shift
from gje_world.evaluation import collapse_gauges, linear_probe_r2
from gje_world.objectives import Objective
from gje_world.training.devices import autocast_dtype

STACK = 3
SIZE = 64  # pixels
BATCH = 128  # sequences


class Frames(NamedTuple):
    """Random-policy episodes, a quarter of them held out."""

    replay: Replay  # of those learnt from
    obs: Tensor  # [N, 9, 64, 64], uint8, of all
    states: Tensor  # [N, S]: what the task says of itself
    names: tuple[str, ...]  # of the states
    train: Tensor  # [N], bool

    @property
    def action_dim(self) -> int:
        return self.replay.maps["action"].shape[1]


def random_frames(task: str, episodes: int, folder: Path) -> Frames:
    """`episodes` of a random policy on `task`, always the same ones; the replay lies in `folder`."""
    env = envs.make(task, seed=0, frame_stack=STACK)
    steps = env.get_wrapper_attr("max_episode_steps") + 1
    generator = np.random.default_rng(0)
    replay = Replay(folder, episodes * steps, 0, (3, SIZE, SIZE), env.action_space.shape[0], STACK)
    obs_all, states = [], []
    for episode in range(episodes):
        obs, info = env.reset(seed=episode)
        replay.start(obs[-3:])
        ended = False
        while True:
            obs_all.append(torch.from_numpy(obs.copy()))
            states.append(torch.from_numpy(info["state"].copy()))
            if ended:
                break
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            obs, reward, terminated, truncated, info = env.step(action)
            replay.add(obs[-3:], action, float(reward), terminated)
            ended = terminated or truncated
    train = torch.arange(len(obs_all)) < 3 * len(obs_all) // 4
    replay.count = int(train.sum())  # what is held out is never sampled
    names = env.get_wrapper_attr("state_names")
    return Frames(replay, torch.stack(obs_all), torch.stack(states), names, train)


class Learnt(NamedTuple):
    """What a world model knows after training."""

    seconds: float
    loss: float  # of the last update's predictions
    r2: Tensor  # [S], of each state variable by a linear probe on held-out frames
    gauges: dict[str, float]  # collapse gauges of all frames' embeddings


def learn(
    world: WorldModel,
    objective: Objective,
    frames: Frames,
    *,
    updates: int,
    seed: int,
    shift: int,
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> Learnt:
    """Train `world` with `objective` for so many updates, as an agent does but for the reward; probe it."""
    agent = AgentConfig()
    dtype = autocast_dtype(device, "auto")
    precision = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    world.to(device), objective.to(device)
    seen = frames.obs[frames.train]
    world.encoder.centre_on(seen[:: max(1, len(seen) // 1000)].to(device))
    momentum = objective.momentum_encoder(world.encoder)
    encoder = list(world.encoder.parameters())
    others = [p for part in (world.dynamics, world.head, objective) for p in part.parameters()]
    groups = [{"params": encoder, "lr": agent.encoder_lr}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=agent.lr, fused=True)
    generator = np.random.default_rng(seed)
    started = time.perf_counter()
    for _ in range(updates):
        batch = frames.replay.sample(generator, BATCH, agent.horizon).to(device)
        with precision:
            obs = stack_frames(batch.frames, STACK)
            obs = random_shift(obs.flatten(0, 1), shift).unflatten(0, obs.shape[:2])
            z = world.embed(obs)
            z_target = z[1:]
            if momentum is not None:
                momentum.update_parameters(world.encoder)
                with torch.no_grad():
                    z_target = world.embed(obs[1:], momentum)
            predicted = objective.predict(world.believe(z[:-1], batch.action), z_target).mean()
            loss = predicted + objective.marginal(z)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder + others, agent.grad_clip)
        optimizer.step()
        advance()
    seconds = time.perf_counter() - started
    with torch.no_grad(), precision:
        z = torch.cat([world.embed(part.to(device)).float().cpu() for part in frames.obs.split(256)])
    train, states = frames.train, frames.states
    r2 = linear_probe_r2(z[train], states[train], z[~train], states[~train])
    gauges = {name: float(value) for name, value in collapse_gauges(z).items()}
    return Learnt(seconds, float(predicted.detach()), r2, gauges)
