"""Images of every source come out as they went in, what is broken is named, and batches can be repeated."""

from __future__ import annotations

import io
import os
import pickle
import signal
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gje_world.data.decoding import (
    BrokenImageError,
    Encoded,
    WorkerError,
    decode_all,
    folder_of_images,
    parquet_of_images,
    require_memory,
    zip_of_images,
)
from gje_world.data.image_sources import DataConfig, labelled, load_images
from gje_world.data.images import ShuffledBatches
from gje_world.data.official import cifar, stl10
from gje_world.options import ConfigError


def picture(value: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 2 * value, 0)).save(file, kind)
    return file.getvalue()


def tree(folder: Path) -> None:
    """Three of each of two classes in train/, one of each in test/; the value tells which."""
    for index, name in enumerate(f"{part}/{kind}" for part in ("train", "test") for kind in ("cat", "ape")):
        (folder / name).mkdir(parents=True)
        for copy in range(3 if name.startswith("train") else 1):
            (folder / name / f"{copy}.png").write_bytes(picture(10 * index + copy))


def values(images) -> dict[int, str]:
    return {
        int(pixels[0, 0, 0]): images.classes[label]
        for pixels, label in zip(images.pixels, images.labels, strict=True)
    }


def zipped(folder: Path, out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as file:
        for each in folder.rglob("*.png"):
            file.write(each, f"set/{each.relative_to(folder)}")
    return out


@pytest.mark.parametrize(("kind", "workers"), [("folder", 0), ("zip", 0), ("zip", 1)])
def test_folders_and_zips(kind, workers, tmp_path):
    tree(tmp_path / "set")
    source = (
        folder_of_images(tmp_path)
        if kind == "folder"
        else zip_of_images(zipped(tmp_path / "set", tmp_path / "a.zip"))
    )
    split = decode_all(source, 8, skip_broken=False, workers=workers)
    assert values(split.train) == {0: "cat", 1: "cat", 2: "cat", 10: "ape", 11: "ape", 12: "ape"}
    assert values(split.test) == {20: "cat", 30: "ape"}
    assert (
        split.train.pixels.dtype == torch.uint8
        and split.train.pixels[0, 1].unique() == 2 * split.train.pixels[0, 0, 0, 0]
    )


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_a_mac_writes_beside_images_is_none(kind, tmp_path):
    """The labels stay with their images."""
    source, path = tmp_path / "set", tmp_path / "a.zip"
    tree(source)
    for name in ("__MACOSX/set/train/ape/._0.png", "__MACOSX/0.png", "set/train/cat/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    if kind == "folder":
        found = folder_of_images(source)
    else:
        with zipfile.ZipFile(path, "w") as file:
            for each in sorted((*source.rglob("*.png"), *(tmp_path / "__MACOSX").rglob("*.png"))):
                file.write(each, each.relative_to(tmp_path))
        found = zip_of_images(path)
    split = decode_all(found, 8, skip_broken=False, workers=0)
    assert values(split.train) == {0: "cat", 1: "cat", 2: "cat", 10: "ape", 11: "ape", 12: "ape"}
    assert values(split.test) == {20: "cat", 30: "ape"}


def test_parquet_files_named_train_and_test_are_those_parts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"test-00000-of-00001": [20, 21], "train-00000-of-00002": [0, 1], "train-00001-of-00002": [2]}
    for name, found in rows.items():
        cells = [{"bytes": picture(value)} for value in found]
        labels = [None if value == 1 else value % 2 for value in found]
        table = pyarrow.table({"image": cells, "label": pyarrow.array(labels, pyarrow.int64())})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    split = decode_all(parquet_of_images(tmp_path), 8, skip_broken=False, workers=0)
    assert split.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert split.test.pixels[:, 0, 0, 0].tolist() == [20, 21]
    assert split.train.labels.tolist() == [0, -1, 0] and split.train.classes == ["0", "1"]


def test_a_parquet_whose_test_part_has_no_labels_has_no_class_of_that(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, labels in {"train": [0, 1, 0], "test": [-1, -1]}.items():
        cells = [{"bytes": picture(value)} for value in range(len(labels))]
        parquet.write_table(pyarrow.table({"image": cells, "label": labels}), tmp_path / f"{name}.parquet")
    split = decode_all(parquet_of_images(tmp_path), 8, skip_broken=False, workers=0)
    assert split.train.classes == ["0", "1"]
    assert split.train.labels.tolist() == [0, 1, 0] and split.test.labels.tolist() == [-1, -1]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": picture(value), "path": "x"} for value in range(20)]
    parquet.write_table(
        pyarrow.table({"image": cells, "label": [v % 2 for v in range(20)]}), tmp_path / "a.parquet"
    )
    split = decode_all(parquet_of_images(tmp_path / "a.parquet"), 8, skip_broken=False, workers=0)
    assert len(split.train) == 18 and len(split.test) == 2
    assert values(split.train) | values(split.test) == {value: str(value % 2) for value in range(20)}


def test_an_image_is_its_middle_square_resized():
    file = io.BytesIO()
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(file, "PNG")
    source = Encoded(lambda index: file.getvalue(), [str(i) for i in range(10)])
    assert (decode_all(source, 5, skip_broken=False, workers=0).train.pixels == 200).all()


def test_a_broken_file_stops_or_is_left_out_by_name(tmp_path, caplog):
    tree(tmp_path)
    whole = (tmp_path / "train/cat/1.png").read_bytes()
    (tmp_path / "train/cat/1.png").write_bytes(whole[:50])
    with pytest.raises(BrokenImageError, match=r"train/cat/1.png is broken .* data.on_broken=skip"):
        decode_all(folder_of_images(tmp_path), 8, skip_broken=False, workers=0)
    split = decode_all(folder_of_images(tmp_path), 8, skip_broken=True, workers=0)
    assert "train/cat/1.png is broken and left out" in caplog.text
    assert sorted(values(split.train)) == [0, 2, 10, 11, 12]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [("deflate", "Error -3 while decompressing"), ("encrypted", "encrypted"), ("method", "not supported")],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_member_of_a_zip_stops_or_is_left_out_by_name(harm, reason, workers, tmp_path, caplog):
    tree(tmp_path / "set")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted((tmp_path / "set").rglob("*.png")):
            file.write(each, each.relative_to(tmp_path / "set"))
        broken = file.getinfo("train/cat/1.png")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"train/cat/1.png") - 46  # in the directory at the end
    if harm == "deflate":
        start = broken.header_offset + 30 + len(broken.filename)
        content[start : start + 4] = b"\xff" * 4
    elif harm == "encrypted":
        content[entry + 8] |= 1
        content[broken.header_offset + 6] |= 1
    else:
        content[entry + 10] = 97
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=rf"a.zip:train/cat/1.png is broken \(.*{reason}"):
        decode_all(zip_of_images(path), 8, skip_broken=False, workers=workers)
    split = decode_all(zip_of_images(path), 8, skip_broken=True, workers=workers)
    assert "a.zip:train/cat/1.png is broken and left out" in caplog.text
    assert sorted(values(split.train)) == [0, 2, 10, 11, 12]


@pytest.mark.parametrize("stray", ["logo.png", "set/logo.png", "set/train/logo.png"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_image_outside_the_classes_has_no_label_and_the_others_keep_theirs(kind, stray, tmp_path):
    tree(tmp_path / "images" / "set")
    (tmp_path / "images" / stray).write_bytes(picture(99))
    if kind == "folder":
        source = folder_of_images(tmp_path / "images")
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for each in (tmp_path / "images").rglob("*.png"):
                file.write(each, each.relative_to(tmp_path / "images"))
        source = zip_of_images(tmp_path / "a.zip")
    split = decode_all(source, 8, skip_broken=False, workers=0)
    assert split.train.labels[split.train.pixels[:, 0, 0, 0] == 99].tolist() == [-1]
    assert values(split.train.pick(labelled(split.train))) == {
        0: "cat",
        1: "cat",
        2: "cat",
        10: "ape",
        11: "ape",
        12: "ape",
    }
    assert values(split.test) == {20: "cat", 30: "ape"}


@pytest.mark.parametrize("folder", ["", "photos", "photos/more"])
def test_images_in_no_folder_or_in_a_single_one_have_no_labels(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for value in range(10):
        (tmp_path / folder / f"{value}.png").write_bytes(picture(value))
    split = decode_all(folder_of_images(tmp_path), 8, skip_broken=False, workers=0)
    assert split.train.labels is None and split.train.classes == []


def test_what_is_no_zip_or_holds_no_bytes_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path=.* is a folder, no zip: data=folder"):
        zip_of_images(tmp_path)
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    image = [{"bytes": picture(1), "path": ""}]
    for columns, words in (
        ({"image": [[1, 2]], "label": [0]}, "column image must hold bytes, .* it holds list"),
        ({"image": image, "label": [[0]]}, "column label must hold one value a row; it holds list"),
    ):
        parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        with pytest.raises(ConfigError, match=words):
            parquet_of_images(tmp_path / "a.parquet")


def test_images_with_other_labels_are_told_apart(tmp_path):
    tree(tmp_path)
    split = decode_all(folder_of_images(tmp_path), 8, skip_broken=False, workers=0)
    before = split.description()
    split.train.labels = split.train.labels.flip(0)
    assert split.description() != before


def test_a_subset_larger_than_the_data_is_refused(tmp_path):
    tree(tmp_path)
    config = DataConfig(name="folder", path=str(tmp_path), image_size=8, subset=7)
    with pytest.raises(ConfigError, match=r"data\.subset=7 must be at most the 6 training images"):
        load_images(config, 0, make_env=None)
    assert len(load_images(replace(config, subset=6), 0, make_env=None).train) == 6
    assert len(load_images(replace(config, subset=2), 0, make_env=None).train) == 2


def kill_itself(index: int) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_a_killed_worker_is_named():
    with pytest.raises(WorkerError, match=r"the process \d+ that decodes images died .*data.workers"):
        decode_all(Encoded(kill_itself, ["a"]), 8, skip_broken=True, workers=1)


def cifar_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(256, size=(count, 3072), dtype=np.uint8), generator.integers(
        10, size=count, dtype=np.uint8
    )


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar10(version, tmp_path):
    pixels, labels = cifar_rows(60)
    inner = tmp_path / "cifar"
    inner.mkdir()
    for batch in range(6):
        part = slice(10 * batch, 10 * batch + 10)
        name = f"data_batch_{batch + 1}" if batch < 5 else "test_batch"
        if version == "binary":
            (inner / f"{name}.bin").write_bytes(
                np.concatenate([labels[part, None], pixels[part]], 1).tobytes()
            )
        else:
            content = {"data": pixels[part], "labels": labels[part].tolist(), "filenames": ["x"]}
            (inner / name).write_bytes(pickle.dumps(content, protocol=2))
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(inner, "cifar-10")
    for path in (inner, tmp_path / "cifar.tar.gz"):
        split = cifar(path, 10)
        assert np.array_equal(split.train.pixels.flatten(1).numpy(), pixels[:50])
        assert split.test.labels.tolist() == labels[50:].tolist() and split.train.classes[3] == "cat"


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bombed",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").write_bytes(pickle.dumps({"data": Bomb()}))
    with pytest.raises(ConfigError, match=r"train is no batch of CIFAR: it would make a posix\.mkdir"):
        cifar(tmp_path, 100)
    assert not (tmp_path / "bombed").exists()


def test_stl10_stands_upright(tmp_path):
    image = np.zeros((1, 3, 96, 96), np.uint8)
    image[0, :, 0, :] = 255  # the first row
    for part in ("train", "test"):
        (tmp_path / f"{part}_X.bin").write_bytes(image.transpose(0, 1, 3, 2).tobytes())
        (tmp_path / f"{part}_y.bin").write_bytes(bytes([10]))
    split = stl10(tmp_path)
    assert np.array_equal(split.train.pixels.numpy(), image) and split.test.labels.tolist() == [9]
    assert split.train.classes == tuple(map(str, range(1, 11)))  # where no file names them
    (tmp_path / "train_y.bin").write_bytes(bytes([1, 2]))
    with pytest.raises(ConfigError, match=r"train_X\.bin has 1 images, but train_y\.bin has 2 labels"):
        stl10(tmp_path)
    (tmp_path / "train_y.bin").write_bytes(bytes([10]))
    (tmp_path / "test_y.bin").unlink()
    with pytest.raises(ConfigError, match=r"holds no test_y.bin"):
        stl10(tmp_path)


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own():
    batches = ShuffledBatches(numbered(10), 4, seed=1)(0)
    drawn = torch.cat([next(batches).flatten() for _ in range(10)]).view(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in drawn.tolist())
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 4


def test_batches_go_on_anywhere_and_ranks_share_them():
    whole = ShuffledBatches(numbered(10), 4, seed=1)
    first = whole(0)
    expected = [next(first) for _ in range(8)]
    assert torch.equal(next(whole(7)), expected[7])
    parts = [next(ShuffledBatches(numbered(10), 4, 1, rank, 2)(7)) for rank in range(2)]
    assert torch.equal(torch.cat(parts), expected[7])
    with pytest.raises(ConfigError, match="batch_size=11 must be at most the 10"):
        ShuffledBatches(numbered(10), 11, seed=1)


def test_more_images_than_the_memory_holds_are_refused_before_any_is_decoded():
    require_memory(50_000, 32)
    with pytest.raises(
        ConfigError, match=r"data\.image_size=4096 is too large: 100,000 images, .*, take 10\.1 TB"
    ):
        require_memory(100_000, 4096)
