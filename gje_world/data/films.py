"""Films from disk to clips: video files and folders of images, decoded once by PyAV."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from gje_world.data.clip_writer import ClipWriter, longest_episode
from gje_world.data.clips import Clips, ClipsError
from gje_world.data.file_state import state_of

logger = logging.getLogger(__name__)

VIDEOS = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"}
IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}

Frames = npt.NDArray[np.uint8]


class FilmError(RuntimeError):
    """A film cannot be read, or no further; the message says why, in a few words."""


def films_in(folder: Path) -> list[str]:
    """Names of the films under `folder`, relative to it: video files, and folders of two images or more.

    Raises:
        ClipsError: there is no such folder, or no film in it.
    """
    if not folder.is_dir():
        raise ClipsError(f"data.path={folder} must be a folder of video files or of folders of images")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images: dict[Path, int] = {}
    for path in files:
        if path.suffix.lower() in IMAGES:
            images[path.parent] = images.get(path.parent, 0) + 1
    found = [path for path in files if path.suffix.lower() in VIDEOS]
    found += [path for path, count in images.items() if count > 1]
    if not found:
        raise ClipsError(
            f"data.path={folder} holds no readable clip: no file ends in {', '.join(sorted(VIDEOS))}, "
            "and no folder holds two images or more"
        )
    return sorted(str(path.relative_to(folder)) for path in found)


def decode_films(folder: Path, cache: Path, image_size: int) -> Clips:
    """Clips of all films under `folder`, decoded into `cache`; what stands there already is not done again.

    The cache keeps each film by name, size and time of change: one that is new or has changed is decoded, and
    one that is gone, or was before the change, is left out. The clips come in the order of the films' names.

    A film that cannot be read is named in a warning, and skipped now and later; of one that cannot be read
    further, what comes before is kept.

    Arguments:
        image_size: height and width of the clips' frames: the middle square of a film's, scaled.

    Raises:
        ClipsError: there is no readable film.
    """
    versions = {f"{name} {state_of(files_of(folder / name))}": name for name in films_in(folder)}
    console = Console(stderr=True)
    with ClipWriter(cache, (3, image_size, image_size)) as clips:
        done, known = Counter(clips.sources), clips.finished | clips.skipped.keys()
        todo = [version for version in versions if version not in known]
        for version in versions:
            if version in clips.skipped:
                logger.warning("%s, as before: %s", folder / versions[version], clips.skipped[version])
        hidden = not console.is_terminal
        for version in track(todo, "decoding", console=console, disable=hidden, transient=True):
            _decode(clips, folder / versions[version], version, done[version], image_size)
    chosen = clips.of_sources(versions)
    if not chosen.episodes:
        name, reason = next(iter(chosen.skipped.items()))
        raise ClipsError(f"data.path={folder} holds no readable clip; {name}: {reason}")
    return chosen


def _decode(clips: ClipWriter, film: Path, version: str, done: int, image_size: int) -> None:
    """Append the episodes of a film after the first `done`, as made from `version`."""
    frames = 0
    try:
        for index, episode in enumerate(_episodes(film, image_size)):
            frames += len(episode)
            if index >= done:
                clips.append(episode, source=version)
    except FilmError as error:
        reason = f"cut short after frame {frames:,}: {error}" if frames else str(error)
        logger.warning("%s is %s%s", film, "" if frames else "skipped: ", reason)
        clips.skip(version, reason)
    else:
        clips.finish(version)


def _episodes(path: Path, image_size: int) -> Iterator[Frames]:
    """The frames of a film as `[T, 3, H, W]`, at most an episode's; those before an error come first."""
    gathered: list[Frames] = []
    try:
        for frame in read_film(path, image_size):
            gathered.append(frame)
            if len(gathered) == longest_episode(3 * image_size**2):
                yield np.stack(gathered)
                gathered = []
    except FilmError:
        if gathered:
            yield np.stack(gathered)
        raise
    if gathered:
        yield np.stack(gathered)


def files_of(film: Path) -> list[Path]:
    """The files that a film is made of: itself, or the images in its folder in the order of their numbers."""
    if not film.is_dir():
        return [film]
    return sorted((file for file in film.iterdir() if file.suffix.lower() in IMAGES), key=_by_number)


def read_film(path: Path, image_size: int) -> Iterator[Frames]:
    """The frames of a video file, or of a folder of images in the order of their numbers, `[3, H, W]` each.

    Raises:
        FilmError: it holds no frame, or frames of several sizes, or cannot be decoded, or no further. Of a
            folder of images it names the one.
    """
    size: tuple[int, int] | None = None
    for file in files_of(path):
        which = "" if file == path else f"{file.name}: "
        try:
            for frame in _decoded(file):
                if size is None:
                    size = (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    raise FilmError(
                        f"frames of mixed sizes, {size[0]}x{size[1]} and {frame.width}x{frame.height}"
                    )
                yield _square(frame, image_size)
        except FilmError as error:
            raise FilmError(f"{which}{error}") from error
    if size is None:
        raise FilmError("it holds no frame")


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _decoded(file: Path) -> Iterator[av.VideoFrame]:
    """The frames of one file.

    Raises:
        FilmError: it is no video, or damaged, or this build of FFmpeg has no decoder for it.
    """
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise FilmError("it holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise FilmError("the codec it needs is missing from this build of FFmpeg")
            stream.thread_type = "AUTO"
            yield from container.decode(stream)
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError, UnicodeDecodeError) as error:
        raise FilmError(f"it cannot be decoded ({getattr(error, 'strerror', None) or error})") from error


def _square(frame: av.VideoFrame, side: int) -> Frames:
    """The middle square of a frame, scaled to `[3, side, side]`."""
    short = min(frame.width, frame.height)
    width, height = (max(side, round(length * side / short)) for length in (frame.width, frame.height))
    pixels = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))
