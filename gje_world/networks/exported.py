"""Modules on disk for others to use: safetensors files with a readable json beside them.

Reading runs no code that came with the files, and checks everything before a weight is believed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from gje_world.options import ConfigError
from gje_world.training.atomic import replacing
from gje_world.training.content import content_digest

FORMAT = "gje-world encoder, version 1"
DESCRIPTION = "encoder.json"
LARGEST_JSON = 1 << 20  # bytes
Module = TypeVar("Module", bound=nn.Module)


class PretrainedError(ConfigError):
    """A folder does not hold a whole encoder; the message says what is wrong with it in one line."""


def write_modules(path: Path | str, modules: Mapping[str, nn.Module], description: Mapping[str, Any]) -> None:
    """Write each module's weights as `<name>.safetensors`, then `encoder.json` with `description`.

    Nothing is written where the description cannot be. The json comes last and holds the digests of the
    files: one that was cut off, or mixed with another's, is found out when it is read.

    Raises:
        TypeError: the description holds something that is no plain value.
        OSError: the folder cannot be written.
    """
    json.dumps(description)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, module in modules.items():
        weights = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
        with replacing(folder / f"{name}.safetensors") as temporary:
            save_file(weights, temporary)
            digests[f"{name}.safetensors"] = content_digest(temporary)
    content = {"format": FORMAT, **description, "sha256": digests}
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_description(path: Path | str) -> dict[str, Any]:
    """The `encoder.json` of a folder.

    Raises:
        PretrainedError: there is none, it is damaged, or of another format.
    """
    file = Path(path) / DESCRIPTION
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(LARGEST_JSON))
    except FileNotFoundError as error:
        raise PretrainedError(
            f"{path} holds no {DESCRIPTION}; give the folder that encoder.save wrote, or of a run its "
            "folder encoder/ (gje-pretrain) or model/ (gje-video)"
        ) from error
    except OSError as error:
        raise PretrainedError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise PretrainedError(f"{file} must be of the format {FORMAT!r}, not {found!r}")
    return content


def read_module(
    path: Path | str, name: str, description: Mapping[str, Any], make: Callable[[], Module]
) -> Module:
    """The module that `make` makes, with the weights of `<name>.safetensors`, in evaluation mode.

    Arguments:
        description: as `read_description` gives it.
        make: called twice: first without memory, to compare the shapes with those in the file.

    Raises:
        PretrainedError: the file is missing, damaged, or of other shapes than the module's.
    """
    file = Path(path) / f"{name}.safetensors"
    digests = description.get("sha256")
    try:
        if not isinstance(digests, dict) or content_digest(file) != digests.get(file.name):
            raise PretrainedError(
                f"{file} is damaged: its content does not match the digest in {DESCRIPTION}"
            )
        with safe_open(file, framework="pt") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            with torch.device("meta"):
                wanted = {key: tuple(value.shape) for key, value in make().state_dict().items()}
            for key in sorted(wanted.keys() | shapes.keys()):
                if shapes.get(key) != wanted.get(key):
                    raise PretrainedError(
                        f"{file}: {key} is {_shape(shapes.get(key))} there, but {_shape(wanted.get(key))} "
                        f"in the architecture of {DESCRIPTION}"
                    )
            weights = {key: opened.get_tensor(key) for key in shapes}
    except FileNotFoundError as error:
        raise PretrainedError(f"{path} holds no {file.name}") from error
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"{file} cannot be read: {error}") from error
    with (
        torch.random.fork_rng()
    ):  # what is drawn at first is replaced: the caller's numbers stay as they were
        module = make()
    module.load_state_dict(weights)
    return module.eval()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
