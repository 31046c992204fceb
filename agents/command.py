"""What the agent's commands share: Hydra's configuration, and errors that fit on one line."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from agents.config import ConfigError
from gje_world.training.checkpoint import CheckpointError
from gje_world.training.disk import DiskSpaceError
from gje_world.training.run_directory import RunDirectoryError

USER_ERRORS = (ConfigError, RunDirectoryError, CheckpointError, DiskSpaceError, ValueError, OSError)


def run_command(name: str, schema: type, work: Callable) -> int:
    """Compose the configuration `name`, typed by the dataclass `schema`, and hand it to `work`.

    Returns the exit status: that of `work`, or 2 after a one-line error for a value that cannot work.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("agents", "envs", "gje_world"):
        logging.getLogger(package).setLevel(logging.INFO)
    # Hydra's own report of an error runs over many lines; raised, it can be put in one
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    status = 0

    def task(config: DictConfig) -> None:
        nonlocal status
        status = work(OmegaConf.to_object(config)) or 0

    try:
        hydra.main(version_base=None, config_path="pkg://configs", config_name=name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error, schema)}", file=sys.stderr)
        return 2
    except USER_ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return status


def one_line(error: BaseException, schema: type) -> str:
    """What is wrong with the configuration, with the nearest option where the key is unknown."""
    key = None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigKeyError):
            key = cause.full_key
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(
        line for line in lines if not line.startswith(("full_key", "object_type", "To append"))
    )
    if key:
        near = difflib.get_close_matches(key, option_names(OmegaConf.structured(schema)), n=3)
        message = f"unknown option {key!r}" + (f": nearest are {', '.join(near)}" if near else "; see --help")
    return message


def option_names(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all options of `config`."""
    names = []
    for key, value in config.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, DictConfig):
            names += option_names(value, f"{prefix}{key}.")
    return names
