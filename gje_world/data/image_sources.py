"""Where images come from (config group `data`): checks, and one function that reads whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import gymnasium
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from gje_world.data.decoding import decode_all, folder_of_images, parquet_of_images, zip_of_images
from gje_world.data.frames import random_frames
from gje_world.data.images import Images, Split
from gje_world.data.official import cifar, stl10
from gje_world.options import ConfigError, option, require_at_least

SOURCES = ("frames", "folder", "zip", "parquet", "cifar10", "cifar100", "stl10")


class OnBroken(Enum):
    """What a broken image file does."""

    skip = "skip"
    stop = "stop"


@dataclass
class DataConfig:
    """The images to learn from (config group `data`). All are kept in memory, as uint8."""

    name: str = option("frames", f"set by the group: {', '.join(SOURCES)}")
    path: str | None = option(None, "of all but frames: the folder, zip, parquet file or archive")
    image_size: int = option(64, "height and width in pixels; CIFAR has 32 and STL-10 has 96")
    on_broken: OnBroken = option(OnBroken.stop, "an image that cannot be read: stop, or skip it by name")
    workers: int = option(0, "processes that decode images; 0: this one")
    subset: int | None = option(None, "so many training images alone, a random choice; null: all")
    licence: str | None = option(None, "of the images, written beside the encoder; null: as far as known")
    task: str = option("dmc/cartpole-swingup", "of frames: dmc/<domain>-<task> or gym/<id>")
    frames: int = option(6_000, "of frames: how many are rendered")
    every: int = option(2, "of frames: agent steps between two that are kept")
    frame_stack: int = option(3, "of frames: frames in an image, as an agent sees them")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: the first option found wrong.
        """
        if self.name not in SOURCES:
            raise ConfigError(f"data={self.name} must be one of {', '.join(SOURCES)}")
        require_at_least(0, self, "workers", prefix="data.")
        require_at_least(1, self, "image_size", "every", "frame_stack", "subset", prefix="data.")
        require_at_least(10, self, "frames", prefix="data.")
        if self.name == "frames":
            if self.path is not None:
                others = ", ".join(name for name in SOURCES if name != "frames")
                raise ConfigError(
                    f"data.path={self.path} is not read by data=frames; give data={others} beside it"
                )
            return
        if self.path is None:
            raise ConfigError(f"data={self.name} needs data.path=…")
        if not Path(self.path).exists():
            raise ConfigError(f"data.path={self.path} does not exist")
        if self.name in ("cifar10", "cifar100", "stl10"):
            size = 96 if self.name == "stl10" else 32
            if self.image_size != size:
                raise ConfigError(f"data.image_size={self.image_size} must be {size} with data={self.name}")

    @property
    def channels(self) -> int:
        """Of an image."""
        return 3 * self.frame_stack if self.name == "frames" else 3


def load_images(config: DataConfig, seed: int, make_env: Callable[[DataConfig], gymnasium.Env]) -> Split:
    """All images that `config` tells of, read or rendered, with a progress bar.

    Arguments:
        seed: of rendered episodes.
        make_env: makes the environment of `data=frames`.

    Raises:
        ConfigError: the path holds something else.
        BrokenImageError, WorkerError: an image, or a process that reads them, is broken.
    """
    console = Console(stderr=True)
    look = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*look, console=console, disable=not console.is_terminal) as progress:
        split = read(config, seed, make_env, progress)
    if config.licence is not None:
        split.licence = config.licence
    if config.subset is not None:
        if config.subset > len(split.train):
            raise ConfigError(
                f"data.subset={config.subset} must be at most the {len(split.train)} training images"
            )
        generator = torch.Generator().manual_seed(0)
        split.train = split.train.pick(torch.randperm(len(split.train), generator=generator)[: config.subset])
    for name, part in (("train", split.train), ("test", split.test)):
        if not len(part):
            raise ConfigError(f"data.path={config.path} holds no {name} images")
    return split


def read(
    config: DataConfig, seed: int, make_env: Callable[[DataConfig], gymnasium.Env], progress: Progress
) -> Split:
    """The source's own split of its images."""
    if config.name == "frames":
        bar = progress.add_task("frames", total=config.frames)
        env = make_env(config)
        try:
            return random_frames(
                env, config.frames, seed, every=config.every, advance=lambda n: progress.advance(bar, n)
            )
        finally:
            env.close()
    path = Path(config.path or "")
    if config.name == "stl10":
        return stl10(path)
    if config.name in ("cifar10", "cifar100"):
        return cifar(path, 10 if config.name == "cifar10" else 100)
    readers = {"folder": folder_of_images, "zip": zip_of_images, "parquet": parquet_of_images}
    source = readers[config.name](path)
    bar = progress.add_task("images", total=len(source.names))
    return decode_all(
        source,
        config.image_size,
        skip_broken=config.on_broken is OnBroken.skip,
        workers=config.workers,
        advance=lambda n: progress.advance(bar, n),
    )


def told_apart(config: DataConfig, images: Split) -> dict[str, dict[str, Any]]:
    """What tells the images of a run from others under the same name, as `RunDirectory.open` takes `sources`.

    Of rendered frames nothing: they depend on the options alone, but for the last bit of a pixel on another
    machine.
    """
    return {} if config.path is None else {"images": images.description()}


def labelled(images: Images) -> Tensor:
    """Indices `[M]` of those with a label; none where there are no labels at all."""
    if images.labels is None:
        return torch.empty(0, dtype=torch.long)
    return (images.labels >= 0).nonzero().squeeze(1)
