"""Pretrained encoders: a folder on disk becomes an encoder, and where there is one, its predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gje_world.beliefs import Belief
from gje_world.networks import Encoder, make_encoder
from gje_world.networks.exported import (
    DESCRIPTION,
    Module,
    PretrainedError,
    read_description,
    read_module,
    write_modules,
)
from gje_world.predictor import ViewPredictor

LARGEST_OPTION = 1 << 16  # of a whole number in an architecture: wider or deeper than any network here


@dataclass
class Pretrained:
    """An encoder, the predictor that learnt beside it, and where both come from."""

    encoder: Encoder
    predictor: ViewPredictor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def project(self, z: Tensor) -> Tensor | None:
        """What beliefs are over: `v [..., P]` of `z [..., D]`; None where the method learnt no belief."""
        return None if self.predictor is None else self.predictor.project(z)

    def believe(self, z: Tensor) -> Belief | None:
        """Belief over `project(z)` of another view of the image that `z [..., D]` is of, event shape `[P]`.

        None where the method learnt no belief.
        """
        return None if self.predictor is None else self.predictor.believe(self.predictor.project(z))

    def save(self, path: Path | str) -> None:
        """Write the folder that `load_pretrained` reads.

        Raises:
            OSError: the folder cannot be written.
        """
        modules: dict[str, torch.nn.Module] = {"encoder": self.encoder}
        description: dict[str, Any] = {"encoder": self.encoder.description}
        if self.predictor is not None:
            modules["predictor"] = self.predictor
            description["predictor"] = self.predictor.architecture
        write_modules(path, modules, description | {"provenance": self.provenance})


def load_encoder(path: Path | str) -> Encoder:
    """The encoder in a folder that `Encoder.save` or `gje-pretrain` wrote, on the CPU, in evaluation mode.

    Only weights and plain values are read: no code of whoever made the folder runs.

    Raises:
        PretrainedError: the folder holds no whole encoder; the message says what is wrong, in one line.
    """
    description = read_description(path)
    entry = mapping(path, description, "encoder")
    architecture = mapping(path, entry, "architecture")
    return read_module(path, "encoder", description, maker(path, architecture, make_encoder))


def load_pretrained(path: Path | str) -> Pretrained:
    """The encoder in a folder with the predictor beside it, if there is one.

    Raises:
        PretrainedError: as in `load_encoder`.
    """
    description = read_description(path)
    predictor = None
    if "predictor" in description:
        make = maker(path, mapping(path, description, "predictor"), ViewPredictor)
        predictor = read_module(path, "predictor", description, make)
    return Pretrained(load_encoder(path), predictor, description.get("provenance") or {})


def maker(
    path: Path | str, architecture: Mapping[str, Any], make: Callable[..., Module]
) -> Callable[[], Module]:
    """A function that makes the module of an `architecture`, and refuses a strange one in one line."""

    def build() -> Module:
        for name, value in numbers(architecture):
            if not 0 <= value <= LARGEST_OPTION:
                raise PretrainedError(f"{Path(path) / DESCRIPTION}: {name}={value} is out of bounds")
        try:
            return make(**architecture)
        except PretrainedError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise PretrainedError(
                f"{Path(path) / DESCRIPTION} has an architecture that cannot be: {reason}"
            ) from error

    return build


def numbers(options: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The whole numbers among options, and among those of options."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from numbers(value)
        elif isinstance(value, int):
            yield name, value


def mapping(path: Path | str, within: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The mapping called `name` of a description.

    Raises:
        PretrainedError: there is none.
    """
    found = within.get(name)
    if not isinstance(found, dict):
        raise PretrainedError(f"{Path(path) / DESCRIPTION} must say what its {name} is")
    return found
