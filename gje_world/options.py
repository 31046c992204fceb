"""Options: fields of a configuration dataclass that carry their line of help."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import field, fields, is_dataclass
from enum import Enum
from typing import Any

LARGEST_SEED = 2**63 - 1  # that torch takes on every device


class ConfigError(ValueError):
    """An option has a value that cannot work; the message names the option, the value, and what would do."""


def option(default: Any, help: str) -> Any:
    """A dataclass field with a default and a line of help."""
    return field(default=default, metadata={"help": help})


def group(kind: type, **values: Any) -> Any:
    """A dataclass field that is itself a configuration dataclass, of its own defaults but for `values`."""
    return field(default_factory=lambda: kind(**values), metadata={"group": kind})


def plain_value(value: Any) -> Any:
    """A configuration as nested plain values: dataclasses become dicts, enums their values."""
    if is_dataclass(value):
        return {f.name: plain_value(getattr(value, f.name)) for f in fields(value)}
    return value.value if isinstance(value, Enum) else value


def given(config: Any) -> dict[str, Any]:
    """The options of a flat configuration that are not null, as keyword arguments."""
    return {name: value for name, value in plain_value(config).items() if value is not None}


def value_of(config: Any, name: str) -> Any:
    """Value of a dotted option."""
    return functools.reduce(getattr, name.split("."), config)


def values_given(config: Any, names: Sequence[str]) -> list[tuple[str, Any]]:
    """Names and values of the dotted options among `names` that are not null."""
    values = ((name, value_of(config, name)) for name in names)
    return [(name, value) for name, value in values if value is not None]


def require_groups(config: Any) -> None:
    """Refuses groups of a configuration that are not of their dataclass, as where Python gives a word.

    Raises:
        ConfigError: the first one found, with how it is written.
    """
    for f in fields(config):
        kind, value = f.metadata.get("group"), getattr(config, f.name)
        if kind is not None and not isinstance(value, kind):
            first = next(iter(fields(kind))).name
            where = f"{kind.__module__}.{kind.__name__}"
            example = f"{kind.__name__}({first}={value!r})"
            raise ConfigError(f"{f.name}={value!r} must be a {where}, such as {example}")


def require_at_least(low: float, config: Any, *names: str, prefix: str = "") -> None:
    """Refuses numbers below `low`, or not finite, among the options called `names`, dotted; null is none.

    Raises:
        ConfigError: the first one found, its name after `prefix`.
    """
    for name, value in values_given(config, names):
        if not value >= low:  # NaN is below all
            raise ConfigError(f"{prefix}{name}={value} must be at least {low}")
        if value == math.inf:
            raise ConfigError(f"{prefix}{name}={value} must be finite")


def require_above(low: float, config: Any, *names: str, prefix: str = "") -> None:
    """Refuses numbers that are `low` or below, or not finite, as `require_at_least` does those below it.

    Raises:
        ConfigError: the first one found, its name after `prefix`.
    """
    for name, value in values_given(config, names):
        if not low < value < math.inf:
            raise ConfigError(f"{prefix}{name}={value} must be above {low}, and finite")


def require_seed(config: Any) -> None:
    """Refuses an option `seed` that torch does not take on every device.

    Raises:
        ConfigError: naming it.
    """
    if not 0 <= config.seed <= LARGEST_SEED:
        raise ConfigError(f"seed={config.seed} must be between 0 and {LARGEST_SEED}")


def require_shares(name: str, size: int, ranks: int) -> None:
    """Refuses a batch, the option `name`, that so many ranks cannot share equally.

    Raises:
        ConfigError: naming both.
    """
    if size % ranks:
        raise ConfigError(f"{name}={size} must be a multiple of the {ranks} devices")


def require_some(config: Any, name: str, known: Sequence[str]) -> None:
    """Refuses a list of words that is empty, or has one that is not among `known`; null is no list.

    Raises:
        ConfigError: naming those there are.
    """
    asked = value_of(config, name)
    if asked == []:
        raise ConfigError(f"{name}=[] must name some of {', '.join(known)}, or be null")
    for word in asked or ():
        if word not in known:
            raise ConfigError(f"{name}=[{word}] must be among {', '.join(known)}")


def require_taken(part: str, options: Mapping[str, Any], takes: Set[str]) -> None:
    """Refuses options that a part, such as "belief=diagonal", does not take.

    Raises:
        ValueError: naming the first of them, its value, and those that there are.
    """
    if unknown := sorted(options.keys() - takes):
        name, value = unknown[0], options[unknown[0]]
        raise ValueError(
            f"{part} has no option {name}; it takes {', '.join(sorted(takes))}; {name}={value} must be left "
            "out, or null"
        )


def described(config: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """Dotted name, value and line of help of every option of a configuration, groups after single ones."""
    single, nested = [], []
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            nested += described(value, f"{prefix}{f.name}.")
        else:
            single.append((f"{prefix}{f.name}", as_text(value), f.metadata.get("help", "")))
    return single + nested


def as_text(value: Any) -> str:
    """A value as it is written on a command line."""
    return "null" if value is None else str(plain_value(value))
