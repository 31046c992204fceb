"""Encoded images (JPEG, PNG, …) from folders, zips and parquet files to uint8 pixels of one size."""

from __future__ import annotations

import io
import logging
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gje_world.data.images import Images, Split, held_out_of
from gje_world.options import ConfigError
from gje_world.training.disk import format_bytes

logger = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")
DECODED_AT_ONCE = 64  # images a worker hands over together


class BrokenImageError(RuntimeError):
    """An image cannot be read; the message names it."""


class WorkerError(RuntimeError):
    """A process that reads images has died; the message says which, and what may help."""


@dataclass
class Encoded:
    """Encoded images: `read(i)` gives the bytes of the `i`-th.

    Arguments:
        read: callable in other processes too.
        names: of each image, for messages.
        labels: class index of each, or None.
        classes: their names.
        held_out: whether each is held out, where the source says so.
    """

    read: Callable[[int], bytes]
    names: Sequence[str]
    labels: list[int] | None = None
    classes: list[str] = field(default_factory=list)
    held_out: list[bool] | None = None


def decode(content: bytes, size: int) -> Tensor:
    """Pixels `[3, size, size]` of an encoded image: its middle square, resized.

    Raises:
        ValueError: it is damaged, or no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # whose words are an address in memory
        raise ValueError(
            "no known image format" if unknown else str(error) or type(error).__name__
        ) from error
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class Decoded(Dataset):
    """Decodes one image at a time, in whatever process: its pixels, or why there are none."""

    def __init__(self, source: Encoded, size: int):
        self.source, self.size = source, size

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return decode(self.source.read(index), self.size)
        except (ValueError, OSError) as error:
            return str(error)


def require_memory(count: int, size: int) -> None:
    """Refuses more images than the machine's memory holds twice, before any is decoded: all, and the parts
    that they are picked into.

    Raises:
        ConfigError: naming both.
    """
    needed, there = 2 * 3 * count * size**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"data.image_size={size} is too large: {count:,} images, of which some are held out, take "
            f"{format_bytes(needed)} of memory at once, and the machine has {format_bytes(there)}"
        )


def decode_all(
    source: Encoded,
    size: int,
    *,
    skip_broken: bool,
    workers: int,
    advance: Callable[[int], object] = lambda count: None,
) -> Split:
    """All images of `source`, decoded to uint8 in memory.

    Arguments:
        size: height and width of the result.
        skip_broken: leave out an image that cannot be read, with a warning that names it; else stop there.
        workers: processes that decode; 0: this one.
        advance: called with the number of images of each part done.

    Raises:
        BrokenImageError: an image cannot be read, and none shall be skipped; or none can be read.
        WorkerError: one of the processes was killed.
    """
    count = len(source.names)
    require_memory(count, size)
    pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
    good = torch.ones(count, dtype=torch.bool)
    loader: DataLoader = DataLoader(
        Decoded(source, size), batch_size=DECODED_AT_ONCE, num_workers=workers, collate_fn=list
    )
    place = 0
    for part in survived(loader):
        for found in part:
            if isinstance(found, str):
                if not skip_broken:
                    raise BrokenImageError(
                        f"{source.names[place]} is broken ({found}); data.on_broken=skip leaves it out"
                    )
                logger.warning("%s is broken and left out (%s)", source.names[place], found)
                good[place] = False
            else:
                pixels[place] = found
            place += 1
        advance(len(part))
    if not good.any():
        raise BrokenImageError(f"none of {count} images could be read, the first is {source.names[0]}")
    labels = None if source.labels is None else torch.tensor(source.labels)
    images = Images(pixels, labels, source.classes)
    readable = good.nonzero().squeeze(1)
    if source.held_out is None:
        parts = held_out_of(len(readable))
    else:
        held_out = torch.tensor(source.held_out)[readable]
        parts = (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
    train, test = (images.pick(readable[part]) for part in parts)
    return Split(train, test)


def survived(loader: DataLoader) -> Any:
    """What a loader gives, with a readable error where one of its processes dies."""
    try:
        yield from loader
    except RuntimeError as error:
        if died := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error)):
            reason = " ".join(str(error).split()).rstrip(". ")
            raise WorkerError(
                f"the process {died[1]} that decodes images died ({reason}); it may have run out of memory: "
                "try fewer data.workers, or data.workers=0"
            ) from error
        raise


def folder_of_images(path: Path) -> Encoded:
    """Images in a folder: `<class>/…`, or `train/<class>/…` and `test/<class>/…`, or without classes,
    of which a single one is none.

    An image that lies beside the folders of classes has the label -1.

    Raises:
        ConfigError: there are none.
    """
    if path.is_file():
        raise ConfigError(f"data.path={path} is a file, no folder: data=zip or data=parquet may read it")
    found = {PurePosixPath(file.relative_to(path).as_posix()): file for file in sorted(path.rglob("*"))}
    inner = [name for name, file in found.items() if is_image(name) and file.is_file()]
    files = [found[name] for name in inner]
    return arranged(path, inner, ReadFiles(files), [str(file) for file in files])


def zip_of_images(path: Path) -> Encoded:
    """Images in a zip, arranged as in a folder.

    Raises:
        ConfigError: it is no zip, or holds none.
    """
    if path.is_dir():
        raise ConfigError(f"data.path={path} is a folder, no zip: data=folder reads it")
    try:
        with zipfile.ZipFile(path) as opened:
            members = sorted(name for name in opened.namelist() if is_image(PurePosixPath(name)))
    except zipfile.BadZipFile as error:
        raise ConfigError(f"data.path={path} is no zip file, or a damaged one") from error
    inner = [PurePosixPath(name) for name in members]
    return arranged(path, inner, ReadZip(path, members), [f"{path}:{name}" for name in members])


def is_image(inner: PurePosixPath) -> bool:
    """Whether a path within a source is of an image, and not of what a Mac writes beside each file."""
    left_by_a_mac = inner.name.startswith("._") or "__MACOSX" in inner.parts
    return inner.suffix.lower() in SUFFIXES and not left_by_a_mac


def arranged(
    path: Path, inner: Sequence[PurePosixPath], read: Callable[[int], bytes], names: Sequence[str]
) -> Encoded:
    """What the paths of images within their source say of classes, and of which are held out."""
    if not inner:
        raise ConfigError(f"data.path={path} holds no images ({', '.join(sorted(SUFFIXES))})")
    parts = [each.parts for each in inner]
    while any(len(each) > 2 for each in parts) and len({each[0] for each in parts if len(each) > 1}) == 1:
        # all folders lie in one, such as the data set's name; an image outside stays where it is
        parts = [each[1:] if len(each) > 1 else each for each in parts]
    held_out = None
    if {each[0].lower() for each in parts} & set(TRAIN) and {each[0].lower() for each in parts} & set(TEST):
        held_out = [each[0].lower() in TEST for each in parts]
        parts = [each[1:] for each in parts]
    classes = sorted({each[0] for each in parts if len(each) > 1})
    if len(classes) < 2:  # a single folder tells nothing apart
        return Encoded(read, names, held_out=held_out)
    place = {name: index for index, name in enumerate(classes)}
    labels = [place[each[0]] if len(each) > 1 else -1 for each in parts]
    return Encoded(read, names, labels, classes, held_out)


class ReadFiles:
    """Bytes of the `i`-th of some files."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __call__(self, index: int) -> bytes:
        return self.files[index].read_bytes()


class ReadZip:
    """Bytes of the `i`-th of a zip's members; each process opens the zip for itself.

    Raises:
        ValueError: the member is damaged, encrypted, or compressed in a way that Python cannot undo.
    """

    def __init__(self, path: Path, members: Sequence[str]):
        self.path, self.members = path, members
        self.opened: zipfile.ZipFile | None = None

    def __call__(self, index: int) -> bytes:
        if self.opened is None:
            self.opened = zipfile.ZipFile(self.path)
        try:
            return self.opened.read(self.members[index])
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise ValueError(str(error) or type(error).__name__) from error  # encrypted: a RuntimeError

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "members": self.members, "opened": None}


def unlabelled(label: object) -> bool:
    """Whether a parquet's label says that there is none: nothing, or as the Hub's test parts have it, -1."""
    return label is None or (isinstance(label, int) and label < 0)


def parquet_of_images(path: Path) -> Encoded:
    """Images in the column `image` (or `img`, `bytes`) of a parquet file or a folder of them, with `label`s.

    The column holds bytes, or structs with a field `bytes`, as the Hub's data sets have it.

    Files of a folder whose names say train and test (`test-00000-of-00001.parquet`) are those parts. An image
    without a label has the label -1.

    Raises:
        ConfigError: pyarrow is not installed, or the file is no such parquet.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("data=parquet needs pyarrow: pip install -e '.[data]'") from error
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    try:
        tables = [parquet.read_table(file) for file in files]
        table = pyarrow.concat_tables(tables)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            f"data.path={path} cannot be read as parquet: {' '.join(str(error).split())}"
        ) from error
    column = next((name for name in ("image", "img", "bytes") if name in table.column_names), None)
    if column is None:
        raise ConfigError(f"data.path={path} has no column image, but {', '.join(table.column_names)}")
    cells = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in table[column].to_pylist()]
    if wrong := [cell for cell in cells if cell is not None and not isinstance(cell, bytes)]:
        raise ConfigError(
            f"data.path={path}: its column {column} must hold bytes, or structs with a field bytes; it holds "
            f"{type(wrong[0]).__name__}"
        )
    found = table["label"].to_pylist() if "label" in table.column_names else []
    if wrong := [label for label in found if isinstance(label, (list, dict))]:
        raise ConfigError(
            f"data.path={path}: its column label must hold one value a row; it holds "
            f"{type(wrong[0]).__name__}"
        )
    values = sorted({each for each in found if not unlabelled(each)})
    if len(values) < 2:  # a single one tells nothing apart
        values = []
    classes = [str(value) for value in values]
    place = {value: index for index, value in enumerate(values)}
    labels = [place.get(each, -1) for each in found] if values else None
    held_out = None
    words = [part_words(file.relative_to(path)) if path.is_dir() else set() for file in files]
    if any(said & set(TRAIN) for said in words) and any(said & set(TEST) for said in words):
        held_out = [
            bool(said & set(TEST)) for said, part in zip(words, tables, strict=True) for _ in range(len(part))
        ]
    names = [f"{path}: row {row}" for row in range(len(cells))]
    return Encoded(ReadCells([cell or b"" for cell in cells]), names, labels, classes, held_out)


def part_words(inner: Path) -> set[str]:
    """The words that the path of a file within its folder is made of, in small letters."""
    return set(re.split(r"[^a-z]+", inner.as_posix().lower()))


class ReadCells:
    """The `i`-th of some bytes."""

    def __init__(self, cells: Sequence[bytes]):
        self.cells = cells

    def __call__(self, index: int) -> bytes:
        return self.cells[index]
