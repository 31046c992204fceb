"""What all commands share: Hydra's configuration, help, and errors that fit on one line."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

import configs
from gje_world.options import ConfigError, as_text, described
from gje_world.training.checkpoint import CheckpointError
from gje_world.training.disk import DiskSpaceError
from gje_world.training.run_directory import RunDirectoryError
from gje_world.training.voice import heard

USER_ERRORS = (ConfigError, RunDirectoryError, CheckpointError, DiskSpaceError)
FLAGS = ("--cfg", "-c", "--resolve", "--package", "-p")  # those of Hydra's that show a configuration
FULL = (errno.ENOSPC, errno.EDQUOT)
HELP_WIDTH = 110
INTERRUPTED = 130  # what shells expect after Ctrl-C
COMMON = Path(configs.__file__).parent  # groups of one command alone stand in a folder of its name here


def run_command(
    name: str,
    schema: type,
    work: Callable[[Any], int | None],
    about: str,
    *,
    arguments: Sequence[str] | None = None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Compose the configuration `name`, typed by the dataclass `schema`, and hand it to `work`.

    Arguments:
        about: what the command does and examples of it, printed by `--help` above the options, whose values
            are those that would run.
        arguments: what stands after the command; None: all that was typed after the program's name.
        errors: that the user can put right, beyond those every command has.

    Returns the exit status: that of `work`, or after a one-line error 2 for what cannot work, 1 for a disk
    that ran full, 130 for Ctrl-C. Any other exception is a bug and passes through.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    helping = bool({"--help", "-h"} & set(arguments))
    arguments = [argument for argument in arguments if argument not in ("--help", "-h")]
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in FLAGS:
            return fail(f"unknown flag {argument}; options are written name=value, --help lists them")
        if not argument.startswith("-") and "=" not in argument:
            return fail(f"{argument}: options are written name=value; --help lists them, and any subcommands")
        if argument.startswith(("+", "~")):
            return fail(f"{argument}: nothing can be added or removed; options are written name=value")
    if message := unknown_choice(name, schema(), arguments):
        return fail(message)
    if helping:
        arguments = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("agents", "envs", "gje_world"):
        logging.getLogger(package).setLevel(logging.INFO)
    # Hydra's own report of an error runs over many lines; raised, it can be put in one
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        if helping:
            print(help_text(name, schema(), about, arguments))
            return 0
        # none where Hydra only showed the configuration; +name=value would add what the schema has not
        asked = [OmegaConf.to_object(OmegaConf.merge(schema, config)) for config in compose(name, arguments)]
    except (HydraException, OmegaConfBaseException) as error:
        return fail(explain(name, error, schema(), arguments))
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    try:
        return max((work(config) or 0 for config in asked), default=0)
    except USER_ERRORS + errors as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on where it stopped", INTERRUPTED)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return fail(f"{error}; the same command goes on where it stopped", 1)


def compose(name: str, arguments: Sequence[str]) -> list[Any]:
    """The configuration `name` with `arguments` over it; none where they only ask to see it.

    The work is not done inside Hydra's job, which would print a report of its own before any error.
    """
    composed: list[Any] = []
    typed = sys.argv
    sys.argv = [typed[0], *arguments]  # where Hydra reads them
    try:
        hydra.main(version_base=None, config_path="pkg://configs", config_name=name)(composed.append)()
    finally:
        sys.argv = typed
    return composed


def configuration(name: str, schema: type, *arguments: str) -> Any:
    """The configuration that the command `name` would run with these `arguments`, for its work from Python.

    Arguments:
        schema: the dataclass that types it, and that comes back.

    Raises:
        HydraException, OmegaConfBaseException: there is no such option or choice, or it is of another type.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    with hydra.initialize_config_module("configs", version_base=None):
        return OmegaConf.to_object(OmegaConf.merge(schema, hydra.compose(name, list(arguments))))


def fail(message: str, status: int = 2) -> int:
    """Print a one-line error; the exit status for it."""
    print(f"error: {' '.join(message.split())}", file=heard())
    return status


def help_text(command: str, config: Any, about: str, arguments: Sequence[str]) -> str:
    """What `--help` prints: what the command does, its groups, and each option with value and meaning.

    Values are the defaults, or what `arguments` make of them.
    """
    lines = [about.strip(), ""]
    groups = groups_of(command, config)
    if groups:
        lines.append("Groups (group=choice):")
        for name, choices in groups.items():
            lines += textwrap.wrap(
                ", ".join(choices), HELP_WIDTH, initial_indent=f"  {name:<10} ", subsequent_indent=" " * 13
            )
        lines.append("")
    (composed,) = compose(command, arguments)  # whose groups and preset may say other than the schema
    options = []
    for name, value, help in described(config):
        told = OmegaConf.select(composed, name, throw_on_missing=False)
        options.append((name, "(needed)" if value == MISSING and told is None else as_text(told), help))
    width = max(len(f"{name}={value}") for name, value, _ in options)
    lines.append(f"Options (name={'value' if arguments else 'default'}):")
    lines += [f"  {f'{name}={value}':<{width}}  {help}" for name, value, help in options]
    return "\n".join(lines)


def groups_of(command: str, config: Any) -> dict[str, list[str]]:
    """Choices of each configuration group of a command: its own groups, and the common ones it has."""
    own = sorted(path for path in (COMMON / command).glob("*") if path.is_dir())
    common = sorted(path for path in COMMON.glob("*") if path.is_dir() and hasattr(config, path.name))
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in own + common
        if any(folder.glob("*.yaml"))
    }


def explain(command: str, error: BaseException, config: Any, arguments: Sequence[str]) -> str:
    """What is wrong with what was asked, with the nearest names where one is unknown."""
    if found := re.match(r"In '(\w+)/(\w+)': ConfigKeyError raised while composing[^\n]*\n(.*)", str(error)):
        group, choice, reason = found.groups()
        return f"{group}={choice} sets what gje-{command} does not have ({reason}); choose another {group}"
    while error.__cause__ is not None:
        error = error.__cause__
    key = getattr(error, "full_key", None)
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and key:
        names = [name for name, _, _ in described(config)]
        return f"unknown option {key!r}{nearest(key, [*groups_of(command, config), *names])}"
    if isinstance(error, MissingMandatoryValue):
        missing = [name for name, value, _ in described(config) if value == MISSING]
        return f"{', '.join(missing)} must be given; see --help"
    reason = str(error).partition("\n")[0]
    if key and "is not a ListConfig" in reason:
        written = next((a.partition("=")[2] for a in arguments if a.startswith(f"{key}=")), "...")
        return f"{key}={written} must be a list, written {key}=[{written}]"
    return f"{key}: {reason}" if key else reason


def unknown_choice(command: str, config: Any, arguments: Sequence[str]) -> str | None:
    """What is wrong with a group's choice, where there is none of that name."""
    for name, choices in groups_of(command, config).items():
        asked = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
        if asked and asked[-1] not in choices:
            return f"{name}={asked[-1]} must be one of {', '.join(choices)}"
    return None


def nearest(word: str, words: list[str]) -> str:
    """ ": nearest are …" for a word that is not among `words`: those it ends, else those alike."""
    near = [name for name in words if name.endswith(f".{word}")]
    near = near or difflib.get_close_matches(word, words, n=3)
    return f": nearest are {', '.join(near)}" if near else "; --help lists all"
