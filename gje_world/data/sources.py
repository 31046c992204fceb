"""Where clips come from: generated worlds, films, HDF5, recordings; all end as clips on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gje_world.data.clip_writer import longest_episode
from gje_world.data.clips import Clips, ClipsError
from gje_world.data.file_state import digest, state_of
from gje_world.data.films import decode_films
from gje_world.data.hdf5 import import_hdf5
from gje_world.data.world import write_clips
from gje_world.data.worlds import WORLDS, make_world
from gje_world.options import ConfigError, option, require_at_least

SOURCES = ("world", "films", "hdf5", "clips")


@dataclass
class DataConfig:
    """What is learnt from (config group `data`)."""

    source: str = option("world", "set by the group: data=world, films, hdf5 or clips")
    path: str | None = option(
        None, "films: a folder of videos or of folders of images; hdf5: a file; clips: a recording's folder"
    )
    world: str = option("junction_2", f"a generated world: {', '.join(WORLDS)}")
    episodes: int = option(1_500, "of a generated world")
    length: int = option(20, "frames of each of them")
    image_size: int = option(64, "height and width of frames in pixels, to which films and HDF5 are scaled")
    stride: int = option(1, "frames from one that is used to the next")
    held_out: float = option(0.1, "share of the episodes that is only evaluated on")
    seed: int = option(1, "of a generated world's episodes")
    cache: str = option("runs/clips", "where clips are kept once they are made")


def check_data(data: DataConfig) -> None:
    """Refuses what cannot work.

    Raises:
        ConfigError: the first option found wrong.
    """
    if data.source not in SOURCES:
        raise ConfigError(f"data={data.source} must be one of {', '.join(SOURCES)}")
    require_at_least(1, data, "episodes", "length", "image_size", "stride", prefix="data.")
    require_at_least(0, data, "seed", prefix="data.")
    if not 0 < data.held_out < 1:
        raise ConfigError(f"data.held_out={data.held_out} must be between 0 and 1")
    if data.source == "world":
        if data.path is not None:
            raise ConfigError(
                f"data.path={data.path} is not read by data=world; give data=films, hdf5 or clips beside it"
            )
        try:
            make_world(data.world, data.image_size)
        except ValueError as error:
            raise ConfigError(f"data.world={data.world}: {error}") from error
    elif data.path is None:
        raise ConfigError(f"data.path must be given for data={data.source}")
    elif not Path(data.path).exists():
        raise ConfigError(f"data.path={data.path} must exist")
    require_apart(data, "data.cache", Path(data.cache))


def require_apart(data: DataConfig, name: str, folder: Path) -> None:
    """Refuses to write to a `folder` among the films: what comes to stand there may be taken for one of them.

    Raises:
        ConfigError: naming the option `name`, which holds the folder, and `data.path`.
    """
    if data.source == "films" and folder.resolve().is_relative_to(Path(data.path or "").resolve()):
        raise ConfigError(
            f"{name}={folder} must not lie in data.path={data.path}: films of runs would be learnt from; "
            f"give {name} outside of it, or the films a folder of their own"
        )


def open_clips(data: DataConfig) -> Clips:
    """The clips that `data` describes, made where they are not there yet, or where files have changed since.

    Raises:
        ClipsError: they cannot be made, in one line.
    """
    if data.source == "world":
        world = make_world(data.world, data.image_size)
        parts = (data.world, data.image_size, data.episodes, data.length, data.seed)
        folder = Path(data.cache) / "-".join(str(part) for part in parts)
        return write_clips(world, folder, data.episodes, data.length, data.seed)
    assert data.path is not None
    path = Path(data.path)
    if data.source == "clips":
        clips = Clips.open(path)
        height, width = clips.frame_shape[1:]
        if height != width:
            raise ClipsError(f"data.path={path} holds clips of {height}x{width}; they must be square")
        if clips.frame_shape[1:] != (data.image_size, data.image_size):
            raise ClipsError(
                f"data.image_size={data.image_size} must be that of the clips in {path}: "
                f"data.image_size={clips.frame_shape[1]}"
            )
        return clips
    root = path.resolve()  # the same however it is written
    form = f"{data.image_size}-{longest_episode(3 * data.image_size**2)}"  # and how episodes are cut
    if data.source == "films":  # whose cache knows each of them
        cache = f"{root.stem}-{digest(str(root))}-{form}"
        return decode_films(path, Path(data.cache) / cache, data.image_size)
    if not path.is_file():
        raise ClipsError(f"data.path={path} must be a file of HDF5")
    cache = f"{root.stem}-{digest(f'{root} {state_of([root])}')}-{form}"
    return import_hdf5(path, Path(data.cache) / cache, data.image_size)
