"""`gje-probe encoders`: what a list of pretrained encoders is worth, as a table and a page of figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gje_world.data.image_sources import DataConfig, load_images, told_apart
from gje_world.data.images import Split
from gje_world.data.rendering import make_env
from gje_world.networks import Encoder
from gje_world.networks.exported import read_description
from gje_world.options import ConfigError, group, option, plain_value, require_at_least
from gje_world.plots.encoders import write_report
from gje_world.pretrained import load_pretrained
from gje_world.probing.data import ProbeData, hold_out_classes, probe_data, with_unlike
from gje_world.probing.encoder import Arrays, check_shape, images_to_embed, probe_encoder
from gje_world.probing.table import markdown
from gje_world.training.atomic import replacing
from gje_world.training.devices import choose_device, keep_freed_memory, set_threads
from gje_world.training.origin import origin
from gje_world.training.run_directory import RunDirectory
from gje_world.training.tables import Row, read_rows, write_rows

ABOUT = """
gje-probe encoders: what pretrained encoders are worth, on images they were not trained on.

Each row of table.csv is one encoder: linear probe and k-NN accuracy, calibration before and after temperature
scaling, with and without the belief; out-of-distribution detection by the belief and by features; selective
prediction. On frames with a true state, R² of the state in place of accuracy. The same command on the same
run directory goes on where it stopped. Results stand there: table.csv, table.md, report.html, plots/.

  gje-probe encoders encoders=[runs/gje/encoder,runs/simclr/encoder] data=zip data.path=cifar10.zip
  gje-probe encoders encoders=[runs/gje/encoder] data=frames data.task=dmc/cartpole-swingup

Images are scaled to the size that the first encoder takes, and frames stacked as it takes them.
"""


COLOURS = 3
SEED = 7_000  # of rendered episodes, which no encoder was trained on


@dataclass
class EncodersConfig:
    """Options of `gje-probe encoders`."""

    encoders: list[str] = option(MISSING, "folders that gje-pretrain or encoder.save wrote")
    run_dir: str = option("runs/encoders", "where all is written")
    train_images: int = option(50_000, "most images that probes are fitted to")
    test_images: int = option(10_000, "most images measured on")
    held_out_classes: list[str] | None = option(
        None, "classes left out of the probes, to be told from the others"
    )
    outside_images: int = option(2_000, "images of each kind of noise, texture and digit")
    batch_size: int = option(256, "images embedded at once")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    threads: int | None = option(None, "CPU threads; null: all cores")
    data: DataConfig = group(DataConfig)


# What may differ when a table goes on: none of it changes a row that is there.
CHANGEABLE = ("run_dir", "encoders", "batch_size", "device", "threads", "data.workers")
KINDS = {"dim": int} | dict.fromkeys(
    (
        *("encoder", "path", "digest", "data", "architecture", "method", "objective", "belief"),
        *("command", "commit", "machine"),
    ),
    str,
)

COLUMNS = {
    "encoder": "encoder",
    "linear/accuracy": "linear ↑",
    "knn/accuracy": "k-NN ↑",
    "state/r2": "state R² ↑",
    "linear/ece": "ECE ↓",
    "linear/ece_floor": "its floor",
    "linear/ece_se": "its standard error",
    "linear/ece_equal_mass": "ECE, equal mass ↓",
    "linear/brier": "Brier ↓",
    "linear/nll": "NLL ↓",
    "linear_tempered/ece": "ECE, tempered ↓",
    "linear_uncertain/ece": "ECE, by belief ↓",
    "projection_marginalised/ece": "ECE, over the belief ↓",
    "aurc/confidence": "AURC ↓",
    "rank/entropy_of_view_error": "rank of errors ↑",
    **{
        f"ood/{name}/{score}/auroc": f"{name.replace('_', ' ')}: {score} ↑"
        for name in ("held_out_classes", "noise", "textures", "digits")
        for score in ("surprise", "joint", "epistemic", "marginal", "mahalanobis", "neighbours")
    },
    "seconds": "seconds",
}
"""Columns of table.md; table.csv has all."""


def check(config: EncodersConfig) -> None:
    """Refuses what cannot work, before any work.

    Raises:
        ConfigError: the first option found wrong.
    """
    if not config.encoders:
        raise ConfigError("encoders=[] must name at least one folder")
    if len(set(config.encoders)) < len(config.encoders):
        raise ConfigError(f"encoders={config.encoders} must not name a folder twice")
    require_at_least(2, config, "train_images", "test_images")
    require_at_least(1, config, "outside_images", "batch_size", "threads")
    try:
        choose_device(config.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def encoders(config: EncodersConfig) -> int:
    """Measures the encoders not yet measured, row by row; the exit status."""
    check(config)
    set_threads(config.threads)
    keep_freed_memory()
    shapes = [(path, load_pretrained(path).encoder) for path in config.encoders]  # all whole, before any work
    config = replace(config, data=fitted(config.data, *shapes[0]))
    split = load_images(config.data, SEED, make_env)
    data = data_of(split, config)
    for path, encoder in shapes:
        check_shape(encoder, data, path)
    sources = told_apart(config.data, split)
    with RunDirectory.open(
        config.run_dir, plain_value(config), changeable=CHANGEABLE, sources=sources
    ) as run:
        table, folder = run.path / "table.csv", run.path / "arrays"
        folder.mkdir(exist_ok=True)
        rows = read_rows(table, KINDS)
        done = {row["digest"] for row in rows if (folder / f"{row['digest']}.npz").exists()}
        console = Console(stderr=True)
        look = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*look, console=console, disable=not console.is_terminal) as progress:
            for path in config.encoders:
                if (digest := weights_digest(path)) in done:
                    continue
                pretrained = load_pretrained(path)
                bar = progress.add_task(path, total=images_to_embed(pretrained, data))
                found = probe_encoder(
                    pretrained,
                    data,
                    device=choose_device(config.device),
                    batch_size=config.batch_size,
                    advance=partial(progress.advance, bar),
                )
                save_arrays(folder / f"{digest}.npz", found.arrays)
                row = {"encoder": path, "path": path, "digest": digest, **found.row, **origin()}
                # an encoder trained anew takes the place of the one that its folder held
                kept = [other for other in rows if other["digest"] != digest and not same_folder(other, row)]
                rows = named([*kept, row])
                write_rows(table, rows)
                console.print(told(rows[-1]), highlight=False, soft_wrap=True)
        arrays = {row["encoder"]: read_arrays(folder / f"{row['digest']}.npz") for row in rows}
        report = write_tables(run.path, rows, arrays, run.config.read_text(encoding="utf-8"))
    print(f"report: {report}")
    return 0


def fitted(data: DataConfig, path: str, encoder: Encoder) -> DataConfig:
    """The data asked for, scaled and stacked as the encoder in the folder `path` takes them.

    Raises:
        ConfigError: they are asked for in another size or stack.
    """
    size, stack = encoder.image_size, max(1, encoder.channels // COLOURS)
    for name, value in (("image_size", size), ("frame_stack", stack)):
        if (asked := getattr(data, name)) not in (value, getattr(DataConfig, name)):
            raise ConfigError(f"data.{name}={asked} must be {value}, which {path} takes")
    found = replace(data, image_size=size, frame_stack=stack)
    found.check()
    return found


def data_of(split: Split, config: EncodersConfig) -> ProbeData:
    """What is measured on, of the images asked for.

    Raises:
        ConfigError: there are none of a class to hold out.
    """
    source = config.data
    name = source.task if source.name == "frames" else source.name
    data = probe_data(split, name, config.train_images, config.test_images)
    return with_unlike(hold_out_classes(data, config.held_out_classes or ()), config.outside_images)


def write_tables(folder: Path, rows: Sequence[Row], arrays: Mapping[str, Arrays], config: str) -> Path:
    """Writes `table.md` and `report.html` with its figures into `folder`; the path of the report.

    Arguments:
        rows: of `probe_encoder`, each with its name as `encoder`.
        arrays: of `probe_encoder`, by that name.
        config: the options, as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(markdown(rows, COLUMNS), encoding="utf-8")
    return write_report(folder, rows, arrays, config)


def named(rows: Sequence[Row]) -> list[Row]:
    """The rows with their `encoder` named as short as it differs from all others, whenever measured."""
    names = short_names([row["path"] for row in rows])
    return [row | {"encoder": name} for row, name in zip(rows, names, strict=True)]


def same_folder(row: Row, other: Row) -> bool:
    """Whether two rows are of one folder, however it was written."""
    return Path(row["path"]).absolute() == Path(other["path"]).absolute()


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they still differ."""
    parts = [Path(path).absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def weights_digest(path: str) -> str:
    """What tells the weights in a folder from others."""
    digests = read_description(path)["sha256"]
    return hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()[:16]


def save_arrays(path: Path, arrays: Arrays) -> None:
    """What figures are drawn from, whole or absent."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy takes a keyword for a flag


def read_arrays(path: Path) -> Arrays:
    """The arrays of one encoder."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def told(row: Row) -> str:
    """A row in a line, for who watches."""
    shown = (
        ("linear/accuracy", "linear {:.1%}"),
        ("knn/accuracy", "k-NN {:.1%}"),
        ("linear/ece", "ECE {:.3f}"),
        ("state/r2", "state R² {:.3f}"),
        ("ood/textures/surprise/auroc", "textures by surprise {:.3f}"),
        ("ood/textures/neighbours/auroc", "by neighbours {:.3f}"),
        ("seconds", "{:.0f} s"),
    )
    parts = [words.format(row[name]) for name, words in shown if row.get(name) is not None]
    return f"{row['encoder']}: {' · '.join(parts)}"
