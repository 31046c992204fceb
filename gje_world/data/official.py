"""CIFAR-10, CIFAR-100 and STL-10 in the files their makers publish, unpacked or as archives."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gje_world.data.images import Images, Split
from gje_world.options import ConfigError

Array = npt.NDArray[np.uint8]
CIFAR10_CLASSES: tuple[str, ...] = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def latin1(text: str, encoding: str) -> bytes:
    """Bytes of a string, as NumPy's pickles hold them."""
    return text.encode("latin1")


# all that a pickled batch of CIFAR is made of, under its names in NumPy 1 and 2
HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): latin1,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads arrays and plain values; whatever else a pickle would have made is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would make a {module}.{name}")
        return HARMLESS[module, name]


class Files:
    """Files by name, in a folder at any depth or in a tar archive.

    Raises:
        ConfigError: the path is neither.
    """

    def __init__(self, path: Path):
        self.path = path
        self.members: dict[str, Callable[[], bytes]] = {}
        if path.is_dir():
            self.members = {file.name: file.read_bytes for file in path.rglob("*") if file.is_file()}
            return
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    opened = archive.extractfile(member) if member.isfile() else None
                    if opened is not None:
                        self.members[Path(member.name).name] = partial(bytes, opened.read())
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ConfigError(f"data.path={path} is neither a folder nor a tar archive: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def read(self, name: str) -> bytes:
        """Content of the file of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.members:
            raise ConfigError(f"data.path={self.path} holds no {name}")
        return self.members[name]()


def cifar(path: Path, classes: int) -> Split:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), in its binary or its Python version.

    Of the Python version's pickles, arrays and plain values are read and nothing else.

    Raises:
        ConfigError: a file is missing, damaged, or would run code.
    """
    files = Files(path)
    if classes == 10:
        binary = [f"data_batch_{batch}.bin" for batch in range(1, 6)], ["test_batch.bin"]
        pickled = [f"data_batch_{batch}" for batch in range(1, 6)], ["test_batch"]
        names, label = CIFAR10_CLASSES, "labels"
    else:
        binary, pickled = (["train.bin"], ["test.bin"]), (["train"], ["test"])
        names, label = tuple(str(index) for index in range(classes)), "fine_labels"
    read, wanted = (from_binary, binary) if binary[0][0] in files else (from_pickle, pickled)
    parts = []
    for group in wanted:
        found = [read(files, name, label, classes) for name in group]
        pixels, labels = (np.concatenate(each) for each in zip(*found, strict=True))
        shaped = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
        parts.append(Images(shaped, torch.from_numpy(labels.astype(np.int64)), names))
    return Split(parts[0], parts[1], licence="none stated by its makers; research use")


def from_binary(files: Files, name: str, label: str, classes: int) -> tuple[Array, Array]:
    """Pixels `[N, 3072]` and labels `[N]` of a binary batch: label bytes, the finest last, then pixels."""
    labels = 1 if classes == 10 else 2
    content = np.frombuffer(files.read(name), dtype=np.uint8)
    if len(content) % (labels + 3072) or not len(content):
        raise ConfigError(f"data.path={files.path}: {name} is cut off: {len(content)} bytes")
    rows = content.reshape(-1, labels + 3072)
    return rows[:, labels:], rows[:, labels - 1]


def from_pickle(files: Files, name: str, label: str, classes: int) -> tuple[Array, Array]:
    """Pixels `[N, 3072]` and labels `[N]` of a Python batch."""
    content = files.read(name)
    try:
        batch = PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch[label])
    except Exception as error:  # a damaged pickle may raise anything
        raise ConfigError(f"data.path={files.path}: {name} is no batch of CIFAR: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ConfigError(f"data.path={files.path}: {name} is no batch of CIFAR: pixels {pixels.shape}")
    return pixels, labels


def stl10(path: Path) -> Split:
    """STL-10 (Coates et al., 2011), its unlabelled images too where they are there, in its binary version.

    Unlabelled images have the label -1.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    files = Files(path)
    named = "class_names.txt" in files
    names = tuple(files.read("class_names.txt").decode().split() if named else map(str, range(1, 11)))
    train, train_labels = stl10_part(files, "train")
    test, test_labels = stl10_part(files, "test")
    if "unlabeled_X.bin" in files:
        more = stl10_pixels(files, "unlabeled_X.bin")
        train = torch.cat([train, more])
        train_labels = torch.cat([train_labels, train_labels.new_full((len(more),), -1)])
    licence = "none stated by its makers; of ImageNet's images"
    return Split(Images(train, train_labels, names), Images(test, test_labels, names), licence)


def stl10_part(files: Files, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of `train` or `test`."""
    pixels, labels = stl10_pixels(files, f"{part}_X.bin"), stl10_labels(files, f"{part}_y.bin")
    if len(pixels) != len(labels):
        raise ConfigError(
            f"data.path={files.path}: {part}_X.bin has {len(pixels)} images, but {part}_y.bin has "
            f"{len(labels)} labels"
        )
    return pixels, labels


def stl10_pixels(files: Files, name: str) -> torch.Tensor:
    """Pixels `[N, 3, 96, 96]`, which the file holds column by column."""
    content = np.frombuffer(files.read(name), dtype=np.uint8)
    if len(content) % (3 * 96 * 96) or not len(content):
        raise ConfigError(f"data.path={files.path}: {name} is cut off: {len(content)} bytes")
    return torch.from_numpy(content.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2).copy())


def stl10_labels(files: Files, name: str) -> torch.Tensor:
    """Labels `[N]`, which the file counts from 1."""
    return torch.from_numpy(np.frombuffer(files.read(name), dtype=np.uint8).astype(np.int64)) - 1
