"""Builds environments and agents from a run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gymnasium
import torch

import envs
from agents.agent import Agent
from agents.config import ConfigError, TrainConfig
from gje_world.options import given
from gje_world.training.devices import autocast_dtype
from gje_world.training.devices import choose_device as device_named
from gje_world.training.run_directory import RunDirectoryError


def make_env(config: TrainConfig, make: Callable[[], gymnasium.Env] | None = None) -> gymnasium.Env:
    """The environment that `config` describes, or what `make` makes, seen as `config` says.

    Raises:
        ConfigError: there is no such task, or it cannot be seen or acted on.
    """
    e = config.env
    task = config.task if make is None else make()
    try:
        return envs.make(
            task,
            seed=config.seed,
            action_repeat=e.action_repeat,
            frame_stack=e.frame_stack,
            image_size=e.image_size,
            render=e.render.value,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"task={config.task}: {error}") from error


def choose_device(config: TrainConfig) -> torch.device:
    """The device that `config` asks for.

    Raises:
        ConfigError: this machine has none of that name.
    """
    try:
        return device_named(config.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_agent(config: TrainConfig, action_dim: int, discount: float) -> Agent:
    """A new agent on the device and in the precision that `config` asks for.

    Raises:
        ConfigError: there is no such device.
    """
    device, e = choose_device(config), config.env
    return Agent(
        config.agent,
        config.planner,
        config.world,
        given(config.objective),
        given(config.belief),
        obs_shape=(3 * e.frame_stack, e.image_size, e.image_size),
        frame_stack=e.frame_stack,
        action_dim=action_dim,
        discount=discount,
        device=device,
        autocast=autocast_dtype(device, config.precision.value),
    )


def load_weights(agent: Agent, state: Mapping, path: Path) -> None:
    """Weights of the checkpoint `state`, read from `path`, into `agent`.

    Raises:
        RunDirectoryError: they are of another shape, or no weights at all.
    """
    try:
        agent.load_state_dict(state["agent"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{path} holds no agent") from error
    except RuntimeError as error:
        _, *details = str(error).strip().splitlines()
        reason = details[0].strip() if details else str(error)
        raise RunDirectoryError(f"{path} is of an agent of another shape ({reason})") from error
