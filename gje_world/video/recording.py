"""`gje-video record`: episodes of any environment, their actions and true states, as clips on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from omegaconf import MISSING
from rich.console import Console
from rich.progress import track

from gje_world.data.clip_writer import ClipWriter
from gje_world.data.clips import INDEX, ClipsError
from gje_world.data.hdf5 import export_hdf5, require_h5py
from gje_world.options import ConfigError, option, require_at_least, require_seed
from gje_world.training.checkpoint import CheckpointError, CheckpointStore
from gje_world.training.run_directory import RunDirectoryError

EPISODE_SEEDS = 1_000_000  # episodes that a seed has to itself
CHANNELS = 3

Policy = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass
class RecordConfig:
    """Options of `gje-video record`."""

    task: str = option(MISSING, "dmc/<domain>-<task> or gym/<id>")
    policy: str = option("random", "random, or the run directory of a trained agent, which explores")
    episodes: int = option(100, "recorded in all")
    length: int | None = option(None, "most frames of an episode; null: all of it")
    out: str | None = option(
        None, "folder of the clips, or a file .h5 beside such a folder; null: recordings/<task>"
    )
    image_size: int = option(64, "height and width in pixels; with an agent, its own")
    action_repeat: int | None = option(None, "env frames an action is held; null: the task's, or the agent's")
    seed: int = option(1, "of episodes and actions")


def record(config: RecordConfig) -> int:
    """Record what is not yet recorded, episode by episode; the exit status."""
    require_seed(config)
    require_at_least(1, config, "episodes", "image_size", "action_repeat")
    require_at_least(2, config, "length")
    out = Path(config.out or f"recordings/{config.task.replace('/', '-')}")
    as_hdf5 = out.suffix in (".h5", ".hdf5")
    if as_hdf5:
        require_h5py()
        if out.exists() and not (out.with_suffix("") / INDEX).exists():
            raise ConfigError(
                f"out={out} is there already, without the clips {out.with_suffix('')} that it would be "
                "written from; choose another out"
            )
    elif out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is a file; it must be a folder, or end in .h5 or .hdf5")
    env, begin, policy = environment_and_policy(config)
    size = env.observation_space.shape
    assert size is not None and env.action_space.shape is not None
    folder = out.with_suffix("") if as_hdf5 else out
    form = (CHANNELS, size[1], size[2]), env.action_space.shape[0], env.get_wrapper_attr("state_names")
    try:
        with ClipWriter(folder, *form) as clips:
            repeat, length = env.get_wrapper_attr("action_repeat"), config.length or "all"
            source = f"{config.task} {policy} seed {config.seed} action_repeat {repeat} length {length}"
            if any(name != source for name in clips.sources):
                raise ClipsError(
                    f"out={out} holds clips of {clips.sources[0]}, not of {source}; choose another out"
                )
            if clips.episodes > config.episodes:
                raise ClipsError(
                    f"out={out} holds {clips.episodes} episodes already, more than episodes={config.episodes}"
                )
            console = Console(stderr=True)
            todo = range(clips.episodes, config.episodes)
            for episode in track(todo, "episodes", console=console, disable=not console.is_terminal):
                seed = config.seed * EPISODE_SEEDS + episode
                clips.append(*play(env, begin(seed), seed, config.length), source=source)
            if as_hdf5:
                export_hdf5(clips, out)
    finally:
        env.close()
    print(f"{clips.episodes} episodes, {len(clips):,} frames: {out}")
    return 0


def play(
    env: gymnasium.Env, policy: Policy, seed: int, length: int | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """One episode, or its first `length` frames: frames `[T, 3, H, W]`, actions `[T-1, A]`, and states
    `[T, S]` where they are known."""
    obs, info = env.reset(seed=seed)
    frames, actions = [obs[-CHANNELS:]], []
    states = [info["state"]] if "state" in info else []
    ended = False
    while not ended:
        action = policy(obs)
        obs, _, terminated, truncated, info = env.step(action)
        frames.append(obs[-CHANNELS:])
        actions.append(action)
        states += [info["state"]] if "state" in info else []
        ended = terminated or truncated or len(frames) == length
    return np.stack(frames), np.stack(actions), np.stack(states) if states else None


def environment_and_policy(config: RecordConfig) -> tuple[gymnasium.Env, Callable[[int], Policy], str]:
    """The environment, what makes the policy of an episode from its seed, and what the policy is.

    The core imports neither environments nor agents; this one entry point, which makes them by their names,
    must, and does so inside a function.

    Raises:
        ConfigError: there is no such task or agent.
    """
    import agents
    import envs

    options: dict[str, Any] = {"image_size": config.image_size, "action_repeat": config.action_repeat}
    agent, name = None, config.policy
    try:
        if config.policy != "random":
            trained = agents.loading.load_config(config.policy)
            found = CheckpointStore(Path(config.policy) / "checkpoints").load_latest()
            agent = agents.load(config.policy, checkpoint=found and found[1])
            name += f" {found[1].stem}" if found else ""
            options = {
                "image_size": trained.env.image_size,
                "action_repeat": config.action_repeat or trained.env.action_repeat,
                "frame_stack": trained.env.frame_stack,
            }
    except (RunDirectoryError, CheckpointError, ConfigError) as error:
        raise ConfigError(f"policy={config.policy} must be random or a run directory: {error}") from error
    try:
        env = envs.make(config.task, seed=config.seed, **options)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"task={config.task}: {error}") from error
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    if agent is not None and agent.action_dim != space.shape[0]:
        env.close()
        raise ConfigError(
            f"policy={config.policy} acts in {agent.action_dim} dimensions, of {trained.task}; task="
            f"{config.task} has {space.shape[0]}"
        )

    def begin(seed: int) -> Policy:
        if agent is None:
            generator = np.random.default_rng([seed, 1])  # not that which the environment starts with
            return lambda obs: generator.uniform(space.low, space.high).astype(np.float32)
        torch.manual_seed(seed)
        agent.reset()
        return lambda obs: agent.act(obs, explore=True).numpy()

    return env, begin, name
