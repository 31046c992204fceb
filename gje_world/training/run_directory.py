"""The directory of one run: where everything stands, and the promise that it is this run's alone."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gje_world.training.atomic import replacing
from gje_world.training.checkpoint import CheckpointStore
from gje_world.training.locks import LockedError, lock
from gje_world.training.origin import origin

MOST_SHOWN = 6  # options that differ, in an error
_ABSENT = object()


class RunDirectoryError(RuntimeError):
    """The run directory cannot be used as asked; the message says why, and what to do, in one line."""


class RunDirectory:
    """One run on disk, held under a lock until `close()` or the end of the process.

    Layout: `config.yaml`, `origin.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `films/`, `plots/`,
    `report.html`. Made by `RunDirectory.open`.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        changeable: Collection[str] = (),
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Creates the run directory, or takes up the run it holds after checking that it is the same run.

        Arguments:
            path: the directory; missing parents are made.
            config: the run's whole configuration: nested mappings of plain values.
            changeable: dotted options ("steps", or "evaluation" for all of "evaluation.*") that may differ
                from the values on disk when a run goes on; `config.yaml` then takes the new values.
            sources: what the run learns from, by name, such as "clips": what tells it from others is kept in
                a json of that name.
            defaults: what options are where nothing is asked. A run that an earlier version began may lack
                some on disk: they were so then.

        Raises:
            RunDirectoryError: the path is a file, cannot be written or is full, another process writes to
                it, or it holds a run with other options or of other sources.
        """
        path = Path(path)
        asked = plain_config(config)
        try:
            if path.exists() and not path.is_dir():
                raise RunDirectoryError(f"run_dir={path} is a file; choose another run_dir")
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _settle_config(path, asked, changeable, plain_config(defaults or {}))
            for name, told in (sources or {}).items():
                _settle_source(path, name, told)
            _record_origin(path)
            for folder in ("checkpoints", "films", "plots", "tensorboard"):
                (path / folder).mkdir(exist_ok=True)
                if not os.access(path / folder, os.W_OK | os.X_OK):
                    raise RunDirectoryError(f"run_dir={path}: its folder {folder}/ cannot be written")
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def films(self) -> Path:
        return self.path / "films"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_config(path: Path | str) -> dict[str, Any]:
    """Reads a `config.yaml` (or that of a run directory) as nested plain values.

    Safe with a stranger's file: YAML tags that name Python objects are refused, and `${...}` stays text.

    Raises:
        RunDirectoryError: there is no such file, or it is not a mapping in plain YAML.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if path.name == "config.yaml" and path.parent.is_dir():
            raise RunDirectoryError(f"{path.parent} is no run directory: it holds no {path.name}") from error
        raise RunDirectoryError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RunDirectoryError(f"{path} cannot be read as plain YAML: {reason}") from error
    if not isinstance(config, dict):
        raise RunDirectoryError(f"{path} must hold a mapping of options, not {type(config).__name__}")
    return config


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it will be read back from YAML: tuples become lists, mappings become dicts."""
    return {str(key): _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain_config(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _settle_source(path: Path, name: str, told: Mapping[str, Any]) -> None:
    """Writes `<name>.json`, or compares with the one that stands there."""
    file, text = path / f"{name}.json", json.dumps(told, indent=2) + "\n"
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != text:
        raise RunDirectoryError(
            f"run_dir={path} began with other {name} ({file.name} tells which); choose another run_dir"
        )


def _settle_config(
    path: Path, asked: dict[str, Any], changeable: Collection[str], defaults: dict[str, Any]
) -> None:
    """Writes `config.yaml`, after comparing with the one that stands there."""
    file = path / "config.yaml"
    if file.exists():
        stored = read_config(file)
        if stored == asked:
            return
        _refuse_other_run(path, stored, asked, changeable, defaults)
    elif others := sorted(each.name for each in path.iterdir() if not each.name.startswith(".")):
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise RunDirectoryError(
            f"run_dir={path} holds {shown} but no config.yaml to say what run they are of; "
            "choose another run_dir"
        )
    with replacing(file) as temporary:
        temporary.write_text(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _record_origin(path: Path) -> None:
    """Writes `origin.json`, who made this run, when it begins; a resumed run keeps the first one."""
    file = path / "origin.json"
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(origin(), indent=2) + "\n", encoding="utf-8")


def _refuse_other_run(
    path: Path,
    stored: dict[str, Any],
    asked: dict[str, Any],
    changeable: Collection[str],
    defaults: dict[str, Any],
) -> None:
    wanted = dict(_dotted(asked))
    before = {option: value for option, value in _dotted(defaults) if option in wanted}
    on_disk = before | dict(_dotted(stored))
    differences = [
        (option, on_disk.get(option, _ABSENT), wanted.get(option, _ABSENT))
        for option in {**on_disk, **wanted}
        if on_disk.get(option, _ABSENT) != wanted.get(option, _ABSENT)
        and not any(option == free or option.startswith(f"{free}.") for free in changeable)
    ]
    if differences:
        listed = "; ".join(
            f"{option}: {_show(there)} on disk, {_show(here)} asked"
            for option, there, here in differences[:MOST_SHOWN]
        )
        if (more := len(differences) - MOST_SHOWN) > 0:
            listed += f"; and {more} more"
        raise RunDirectoryError(
            f"run_dir={path} holds a run with other options ({listed}); "
            "choose another run_dir, or ask for the values on disk"
        )


def _dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} -> ("a.b", 1); an empty group counts as a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _lock(path: Path) -> int:
    """Locks the run directory for this process."""
    try:
        return lock(path)
    except LockedError as error:
        raise RunDirectoryError(
            f"run_dir={path} is being written by another process (pid {error}); "
            "wait for it, stop it, or choose another run_dir"
        ) from error


def _unusable(path: Path, error: OSError) -> RunDirectoryError:
    where = f" ({error.filename})" if error.filename and Path(error.filename) != path else ""
    return RunDirectoryError(
        f"run_dir={path} cannot be used: {error.strerror or error}{where}; choose another run_dir"
    )
