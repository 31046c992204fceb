"""Builds environments and agents from a run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gymnasium
import torch

import envs
from agents.agent import Agent
from agents.config import ConfigError, TrainConfig
from gje_world.networks import Encoder
from gje_world.networks.exported import DESCRIPTION, read_description
from gje_world.objectives.config import keywords
from gje_world.options import given
from gje_world.pretrained import load_encoder
from gje_world.training.devices import autocast_dtype
from gje_world.training.devices import choose_device as device_named
from gje_world.training.run_directory import RunDirectoryError

ENCODER_FOLDER = "encoder"  # of a run directory, where its copy of a pretrained encoder stands


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
            time_limit=e.time_limit,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            str(error) if config.task in str(error) else f"task={config.task}: {error}"
        ) from error


def choose_device(config: TrainConfig) -> torch.device:
    """The device that `config` asks for.

    Raises:
        ConfigError: this machine has none of that name.
    """
    try:
        return device_named(config.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def pretrained_encoder(config: TrainConfig, run_dir: Path) -> Encoder | None:
    """The pretrained encoder that `config` asks for: the run's own copy of it, once there is one.

    Raises:
        ConfigError: there is no whole encoder, or it is not made for what `config` lets the agent see.
    """
    if config.encoder is None:
        return None
    copied = run_dir / ENCODER_FOLDER
    encoder = load_encoder(copied if (copied / DESCRIPTION).exists() else config.encoder)
    e, colours = config.env, 3
    channels, size = colours * e.frame_stack, e.image_size
    fitting = []
    if channels % encoder.channels:
        if encoder.channels % colours:
            raise ConfigError(
                f"encoder={config.encoder} must take whole frames of {colours} colours; "
                f"it takes images of {encoder.channels} channels"
            )
        fitting.append(f"env.frame_stack={encoder.channels // colours}")
    if size != encoder.image_size:
        fitting.append(f"env.image_size={encoder.image_size}")
    if fitting:
        takes = f"{encoder.channels}x{encoder.image_size}x{encoder.image_size}"
        raise ConfigError(
            f"encoder={config.encoder} takes images of {takes} (channels, height, width), the task gives "
            f"{channels}x{size}x{size}; {' and '.join(fitting)} would fit"
        )
    return encoder


def keep_encoder(config: TrainConfig, encoder: Encoder | None, run_dir: Path) -> None:
    """Copies the pretrained encoder into the run, which from then on needs no other."""
    folder = run_dir / ENCODER_FOLDER
    if encoder is not None and not (folder / DESCRIPTION).exists():
        assert config.encoder is not None
        encoder.save(folder, **(read_description(config.encoder).get("provenance") or {}))


def make_agent(
    config: TrainConfig, action_dim: int, discount: float, encoder: Encoder | None = None
) -> Agent:
    """A new agent on the device and in the precision that `config` asks for.

    Arguments:
        encoder: the pretrained one, if `config` asks for one.

    Raises:
        ConfigError: there is no such device.
    """
    device, e = choose_device(config), config.env
    return Agent(
        config.agent,
        config.planner,
        config.world,
        keywords(config.objective, config.belief),
        given(config.belief),
        obs_shape=(3 * e.frame_stack, e.image_size, e.image_size),
        frame_stack=e.frame_stack,
        action_dim=action_dim,
        discount=discount,
        encoder=encoder,
        encoder_mode=config.encoder_mode,
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
