"""Takes up a trained agent from its run directory, or from one checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.agent import Agent
from agents.building import load_weights, make_agent, pretrained_encoder
from agents.config import TrainConfig, check
from gje_world.networks import Encoder
from gje_world.training.checkpoint import CheckpointStore, load_checkpoint
from gje_world.training.run_directory import RunDirectoryError, read_config


def load_config(run_dir: Path | str) -> TrainConfig:
    """The checked configuration of a run. A stranger's `config.yaml` can name no code to run.

    Raises:
        RunDirectoryError: there is no run, or its configuration does not fit the schema.
        ConfigError: a value in it cannot work.
    """
    values = read_config(run_dir)
    if (text := _interpolation(values)) is not None:
        raise RunDirectoryError(f"{run_dir}/config.yaml must hold plain values, not {text!r}")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), values))
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split())
        raise RunDirectoryError(f"{run_dir}/config.yaml does not fit this version: {reason}") from error
    assert isinstance(config, TrainConfig)
    check(config)
    return config


def _interpolation(value: Any) -> str | None:
    """The first text in nested plain values that OmegaConf would replace by something else."""
    if isinstance(value, str):
        return value if "${" in value else None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((text for part in parts if (text := _interpolation(part)) is not None), None)


def load(run_dir: Path | str, *, checkpoint: Path | str | None = None, device: str = "auto") -> Agent:
    """The agent of a run, ready to act: `agent.act(obs)`.

    Only tensors and plain values are read: loading a stranger's run executes none of their code.

    Arguments:
        run_dir: a directory that `gje-train` wrote.
        checkpoint: one of its checkpoints; None for the newest that is whole.
        device: "auto", "cpu", "cuda", …

    Raises:
        RunDirectoryError: there is no run, or no checkpoint in it, or it is of another shape.
        CheckpointError: the checkpoint is damaged.
    """
    config = load_config(run_dir)
    config.device = device
    if checkpoint is not None:
        state, path = load_checkpoint(checkpoint), Path(checkpoint)
    else:
        found = CheckpointStore(Path(run_dir) / "checkpoints").load_latest()
        if found is None:
            raise RunDirectoryError(f"{run_dir} holds no checkpoint yet")
        state, path = found
    return agent_from(config, state, path, pretrained_encoder(config, Path(run_dir)))


def agent_from(config: TrainConfig, state: Mapping, path: Path, encoder: Encoder | None) -> Agent:
    """The agent that `config`, the checkpoint `state`, read from `path`, and a pretrained encoder make."""
    action_dim, discount = state.get("action_dim"), state.get("discount")
    if not isinstance(action_dim, int) or not isinstance(discount, float):
        raise RunDirectoryError(f"{path} holds no agent")
    agent = make_agent(config, action_dim, discount, encoder)
    load_weights(agent, state, path)
    return agent.eval()
