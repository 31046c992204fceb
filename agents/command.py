"""What the agent's commands share: Hydra's configuration, help, and errors that fit on one line."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

import configs
from agents.config import ConfigError
from gje_world.options import described
from gje_world.training.checkpoint import CheckpointError
from gje_world.training.disk import DiskSpaceError
from gje_world.training.run_directory import RunDirectoryError

USER_ERRORS = (ConfigError, RunDirectoryError, CheckpointError, DiskSpaceError)
GROUPS = ("preset", "objective", "belief")


def run_command(name: str, schema: type, work: Callable[[Any], int | None], about: str) -> int:
    """Compose the configuration `name`, typed by the dataclass `schema`, and hand it to `work`.

    Arguments:
        about: what the command does and examples of it, printed by `--help` above the options.

    Returns the exit status: that of `work`, or 2 after a one-line error for a value that cannot work.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(schema(), about))
        return 0
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("agents", "envs", "gje_world"):
        logging.getLogger(package).setLevel(logging.INFO)
    # Hydra's own report of an error runs over many lines; raised, it can be put in one
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    status = 0

    def task(config: Any) -> None:
        nonlocal status
        status = work(OmegaConf.to_object(config)) or 0

    try:
        hydra.main(version_base=None, config_path="pkg://configs", config_name=name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        return fail(explain(error, schema()))
    except USER_ERRORS as error:
        return fail(str(error))
    return status


def fail(message: str) -> int:
    """Print a one-line error; the exit status for it."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def help_text(config: Any, about: str) -> str:
    """What `--help` prints: what the command does, its groups, and each option with default and meaning."""
    lines = [about.strip(), ""]
    groups = groups_of(config)
    if groups:
        lines.append("Groups (group=choice):")
        lines += [f"  {name:<10} {', '.join(choices)}" for name, choices in groups.items()]
        lines.append("")
    options = described(config)
    width = max(len(f"{name}={value}") for name, value, _ in options)
    lines.append("Options (name=default):")
    lines += [f"  {f'{name}={value}':<{width}}  {help}" for name, value, help in options]
    return "\n".join(lines)


def groups_of(config: Any) -> dict[str, list[str]]:
    """Choices of each configuration group that a command with the defaults `config` has."""
    folder = Path(configs.__file__).parent
    names = [name for name in GROUPS if hasattr(config, "belief")]
    return {name: sorted(path.stem for path in (folder / name).glob("*.yaml")) for name in names}


def explain(error: BaseException, config: Any) -> str:
    """What is wrong with what was asked, with the nearest names where one is unknown."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    for found in causes:
        if isinstance(found, ConfigKeyError) and found.full_key:
            names = [name for name, _, _ in described(config)]
            return f"unknown option {found.full_key!r}{nearest(found.full_key, names)}"
    message = str(error)
    for name, choices in groups_of(config).items():
        asked = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith(f"{name}=")), None)
        if asked is not None and asked not in choices and f"{name}/{asked}" in message:
            return f"{name}={asked} must be one of {', '.join(choices)}"
    noise = ("full_key", "object_type", "reference_type", "To append", "Set the environment")
    return " ".join(line for line in message.splitlines() if not line.strip().startswith(noise))


def nearest(word: str, words: list[str]) -> str:
    """ ": nearest are …" for a word that is not among `words`."""
    near = difflib.get_close_matches(word, words, n=3)
    return f": nearest are {', '.join(near)}" if near else "; --help lists all"
