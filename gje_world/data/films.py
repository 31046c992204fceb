"""Films from disk to clips: video files and folders of images, decoded once by PyAV."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from gje_world.data.clips import Clips, ClipsError

logger = logging.getLogger(__name__)

VIDEOS = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"}
IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
LONGEST = 4_096  # frames of an episode: a longer film becomes several, so that memory does not limit it

Frames = npt.NDArray[np.uint8]


class FilmError(RuntimeError):
    """A film cannot be read; the message says why, in a few words."""


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

    A film that cannot be read is named in a warning, and skipped now and later.

    Arguments:
        image_size: height and width of the clips' frames: the middle square of a film's, scaled.

    Raises:
        ClipsError: there is no readable film.
    """
    clips = Clips.create(cache, (3, image_size, image_size))
    names = films_in(folder)
    console = Console(stderr=True)
    for name in track(names, "decoding", console=console, disable=not console.is_terminal, transient=True):
        if name not in clips.skipped:
            _decode(clips, folder, name, image_size)
    if not clips.episodes:
        name, reason = next(iter(clips.skipped.items()))
        raise ClipsError(f"data.path={folder} holds no readable clip; {name}: {reason}")
    return clips


def _decode(clips: Clips, folder: Path, name: str, image_size: int) -> None:
    """Append the episodes of one film that are not there yet."""
    sources = clips.sources
    done = sources.count(name)
    # only a film's last episode is shorter than the longest; a film that is not the last one is whole
    if done and (sources[-1] != name or clips.lengths[-1] < LONGEST):
        return
    try:
        for index, frames in enumerate(_episodes(folder / name, image_size)):
            if index >= done:
                clips.append(frames, source=name)
    except FilmError as error:
        logger.warning("%s is skipped: %s", folder / name, error)
        if name not in clips.sources:  # else what was read before it broke is kept
            clips.skip(name, str(error))


def _episodes(path: Path, image_size: int) -> Iterator[Frames]:
    """The frames of a film as `[T, 3, H, W]`, `T` at most `LONGEST`."""
    gathered: list[Frames] = []
    for frame in read_film(path, image_size):
        gathered.append(frame)
        if len(gathered) == LONGEST:
            yield np.stack(gathered)
            gathered = []
    if gathered:
        yield np.stack(gathered)


def read_film(path: Path, image_size: int) -> Iterator[Frames]:
    """The frames of a video file, or of a folder of images in the order of their numbers, `[3, H, W]` each.

    Raises:
        FilmError: it cannot be decoded, holds no frame, or frames of several sizes.
    """
    files = [path]
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGES), key=_by_number)
    size: tuple[int, int] | None = None
    for file in files:
        for frame in _decoded(file):
            if size is None:
                size = (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise FilmError(
                    f"frames of mixed sizes, {size[0]}x{size[1]} and {frame.width}x{frame.height}"
                )
            yield _square(frame, image_size)
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
