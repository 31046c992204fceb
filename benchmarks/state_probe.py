"""How much of a task's true state do embeddings hold after a few minutes of world-model training alone?

A proxy, minutes long, for hour-long agent runs: random-policy frames, `--updates` gradient steps of the
objective with no reward and no value, then a ridge regression from embeddings of held-out episodes to the
true state. Prints R² by name.

    python benchmarks/state_probe.py --task dmc/cartpole-swingup --updates 400
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import envs
from agents.agent import AgentConfig, stack_frames
from agents.replay import Replay
from gje_world import WorldModel, WorldModelConfig
from gje_world.data import random_shift
from gje_world.evaluation import collapse_gauges, linear_probe_r2
from gje_world.objectives import make_objective
from gje_world.training.devices import autocast_dtype, choose_device, keep_freed_memory, set_threads

STACK = 3


def collect(
    task: str, episodes: int, folder: Path
) -> tuple[Replay, torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Random-policy episodes in a replay; their stacked observations, true states, and the states' names."""
    env = envs.make(task, seed=0, frame_stack=STACK)
    steps = env.get_wrapper_attr("max_episode_steps") + 1
    generator = np.random.default_rng(0)
    replay = Replay(folder, episodes * steps, 0, (3, 64, 64), env.action_space.shape[0], STACK)
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
    return replay, torch.stack(obs_all), torch.stack(states), env.get_wrapper_attr("state_names")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="dmc/cartpole-swingup")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument(
        "--episodes", type=int, default=40, help="random-policy episodes; a quarter is held out"
    )
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--shift", type=int, default=3)
    parser.add_argument("--marginal-weight", type=float, default=1.0)
    parser.add_argument("--resolution", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()

    keep_freed_memory()
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    device = choose_device("auto")
    dtype = autocast_dtype(device, "auto")
    precision = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    agent = AgentConfig()
    objective = make_objective(
        "gje_conditional", options.dim, marginal_weight=options.marginal_weight, resolution=options.resolution
    )
    with tempfile.TemporaryDirectory() as folder:
        replay, obs, states, names = collect(options.task, options.episodes, Path(folder))
        train = torch.arange(len(obs)) < 3 * len(obs) // 4
        replay.count = int(train.sum())  # what is held out is never sampled
        action_dim = replay.maps["action"].shape[1]
        config = WorldModelConfig(dim=options.dim, encoder_width=options.width)
        world = WorldModel(config, (3 * STACK, 64, 64), action_dim).to(device)
        world.encoder.centre_on(obs[train][:: max(1, int(train.sum()) // 1000)].to(device))
        encoder = list(world.encoder.parameters())
        others = [*world.dynamics.parameters(), *world.head.parameters()]
        optimizer = torch.optim.Adam(
            [{"params": encoder, "lr": agent.encoder_lr}, {"params": others}], lr=agent.lr, fused=True
        )
        generator = np.random.default_rng(options.seed)
        started = time.perf_counter()
        for _ in range(options.updates):
            batch = replay.sample(generator, 128, agent.horizon).to(device)
            with precision:
                frames = stack_frames(batch.frames, STACK)
                shifted = random_shift(frames.flatten(0, 1), options.shift).unflatten(0, frames.shape[:2])
                z = world.embed(shifted)
                nll = objective.predict(world.believe(z[:-1], batch.action), z[1:]).mean()
                loss = nll + objective.marginal(z)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder + others, agent.grad_clip)
            optimizer.step()
        seconds = time.perf_counter() - started
        with torch.no_grad(), precision:
            embedded = torch.cat([world.embed(part.to(device)) for part in obs.split(256)])
    r2 = linear_probe_r2(embedded[train], states[train], embedded[~train], states[~train])
    gauges = {name: round(float(value), 2) for name, value in collapse_gauges(embedded).items()}
    likelihood = f"nll {float(nll.detach()):.3f}"
    print(f"{options.task}: {options.updates} updates in {seconds:.0f} s, {likelihood}, {gauges}")
    for name, value in zip(names, r2.tolist(), strict=True):
        print(f"  {name:<16} {value:6.3f}")
    print(f"  {'mean':<16} {float(r2.nanmean()):6.3f}")


if __name__ == "__main__":
    main()
