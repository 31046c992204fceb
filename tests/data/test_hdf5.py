"""Episodes in HDF5 and back: nothing changes, and what is not in the layout is named."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from gje_world.data import Clips, ClipsError, ClipWriter, clip_writer
from gje_world.data.hdf5 import export_hdf5, import_hdf5

h5py = pytest.importorskip("h5py")
SIZE = 16


@pytest.fixture
def clips(tmp_path):
    chance = np.random.default_rng(0)
    with ClipWriter(tmp_path / "clips", (3, SIZE, SIZE), 2, ("x", "y")) as made:
        for length in (5, 3, 7):
            made.append(
                chance.integers(256, size=(length, 3, SIZE, SIZE), dtype=np.uint8),
                chance.normal(size=(length - 1, 2)).astype(np.float32),
                chance.normal(size=(length, 2)).astype(np.float32),
            )
    return made


def assert_same(one, other):
    assert one.lengths.tolist() == other.lengths.tolist()
    assert one.state_names == other.state_names
    for episode, length in enumerate(one.lengths.tolist()):
        for a, b in zip(one.window(episode, 0, length), other.window(episode, 0, length), strict=True):
            assert torch.equal(a, b)


def test_what_was_written_is_read_back(clips, tmp_path):
    path = export_hdf5(clips, tmp_path / "data.h5")
    assert_same(clips, import_hdf5(path, tmp_path / "back", SIZE))
    with h5py.File(path) as file:
        assert file["pixels"].shape == (15, SIZE, SIZE, 3)
        assert file["ep_offset"][:].tolist() == [0, 5, 8] and file["ep_len"][:].tolist() == [5, 3, 7]
        assert file["step_idx"][:8].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_episodes_may_be_told_by_their_number_in_each_row_and_channels_come_first(clips, tmp_path):
    path = export_hdf5(clips, tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        del file["ep_len"], file["ep_offset"]
        pixels = file["pixels"][:].transpose(0, 3, 1, 2)
        del file["pixels"]
        file["pixels"] = pixels
    assert_same(clips, import_hdf5(path, tmp_path / "back", SIZE))


def test_clips_without_actions_or_states_come_back_and_frames_are_scaled(tmp_path):
    with ClipWriter(tmp_path / "bare", (3, 32, 32)) as bare:
        bare.append(np.full((4, 3, 32, 32), 77, np.uint8))
    back = import_hdf5(export_hdf5(bare, tmp_path / "bare.h5"), tmp_path / "back", 16)
    assert back.action_dim == 0 and back.frame_shape == (3, 16, 16)
    assert (back.window(0, 0, 4).frames == 77).all()


def test_an_import_that_was_killed_goes_on(clips, tmp_path):
    path = export_hdf5(clips, tmp_path / "data.h5")
    first = clips.window(0, 0, 5)
    with ClipWriter(tmp_path / "back", (3, SIZE, SIZE), 2, ("x", "y")) as part:
        part.append(*(values[0].numpy() for values in first))
    assert_same(clips, import_hdf5(path, tmp_path / "back", SIZE))


def test_long_episodes_are_cut_so_that_memory_does_not_limit_them(clips, tmp_path, monkeypatch):
    path = export_hdf5(clips, tmp_path / "data.h5")
    monkeypatch.setattr(clip_writer, "LARGEST", 4 * 3 * SIZE * SIZE)
    back = import_hdf5(path, tmp_path / "back", SIZE)
    assert back.lengths.tolist() == [4, 1, 3, 4, 3] and len(set(back.sources)) == 3
    whole, (first, later) = clips.window(2, 0, 7), (back.window(3, 0, 4), back.window(4, 0, 3))
    assert torch.equal(torch.cat([first.frames, later.frames], 1), whole.frames)
    assert torch.equal(torch.cat([first.states, later.states], 1), whole.states)
    assert torch.equal(first.actions, whole.actions[:, :3]) and torch.equal(
        later.actions, whole.actions[:, 4:]
    )


def test_what_is_not_in_the_layout_is_named(clips, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ClipsError, match=r"text\.h5 cannot be read as HDF5"):
        import_hdf5(tmp_path / "text.h5", tmp_path / "back", SIZE)
    path = export_hdf5(clips, tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        for name in ("ep_len", "episode_idx"):
            del file[name]
    with pytest.raises(ClipsError, match="must hold ep_len and ep_offset, or episode_idx"):
        import_hdf5(path, tmp_path / "back", SIZE)
    with h5py.File(path, "a") as file:
        file["ep_len"] = [5, 3, 8]
    with pytest.raises(ClipsError, match="episodes that do not lie within its 15 rows"):
        import_hdf5(path, tmp_path / "back", SIZE)
    with h5py.File(path, "a") as file:
        del file["ep_len"]
        file["ep_len"] = [5, 4, 7]
    with pytest.raises(ClipsError, match="share rows: one of 4 from row 5, one from row 8"):
        import_hdf5(path, tmp_path / "back", SIZE)
    with h5py.File(path, "a") as file:
        del file["action"]
        file["action"] = np.zeros((9, 2))
    with pytest.raises(ClipsError, match="has 9 rows of action, but 15 of pixels"):
        import_hdf5(path, tmp_path / "back", SIZE)
    with h5py.File(path, "a") as file:
        del file["pixels"]
        file["pixels"] = np.zeros((15, SIZE, SIZE, 4), np.uint8)
    with pytest.raises(ClipsError, match=r"must have 1 or 3 channels, first or last of \[N, H, W, C\]; got"):
        import_hdf5(path, tmp_path / "back", SIZE)
    with h5py.File(path, "a") as file:
        del file["pixels"]
    with pytest.raises(ClipsError, match="must hold pixels; it holds action"):
        import_hdf5(path, tmp_path / "back", SIZE)


def test_only_the_last_action_of_an_episode_may_be_nan(clips, tmp_path):
    path = export_hdf5(clips, tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        for last in (4, 7, 14):
            file["action"][last] = np.nan
    assert_same(clips, import_hdf5(path, tmp_path / "back", SIZE))
    with h5py.File(path, "a") as file:
        file["action"][6, 1] = np.nan
    with pytest.raises(ClipsError, match=r"row 6 of action in .*data\.h5 is \[.*, nan\]: all must be finite"):
        import_hdf5(path, tmp_path / "other", SIZE)
    with h5py.File(path, "a") as file:
        file["action"][6, 1] = 0
        file["state"][14, 0] = np.inf
    with pytest.raises(ClipsError, match=r"row 14 of state in .* is \[inf, .*\]: all must be finite$"):
        import_hdf5(path, tmp_path / "third", SIZE)


def test_a_compression_that_is_not_there_is_named(clips, tmp_path):
    path = export_hdf5(clips, tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        pixels = file["pixels"][:]
        del file["pixels"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((1, SIZE, SIZE, 3))
        made.set_filter(40_000, h5py.h5z.FLAG_OPTIONAL)  # which nobody has
        space = h5py.h5s.create_simple(pixels.shape)
        h5py.h5d.create(file.id, b"pixels", h5py.h5t.NATIVE_UINT8, space, made).write_direct_chunk(
            (0, 0, 0, 0), b"compressed"
        )
    with pytest.raises(ClipsError, match=r"pixels of .*data\.h5 is compressed by .*40000.*hdf5plugin"):
        import_hdf5(path, tmp_path / "back", SIZE)
    assert not (tmp_path / "back").exists()


def test_what_hdf5plugin_compresses_is_read(clips, tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = export_hdf5(clips, tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        pixels = file["pixels"][:]
        del file["pixels"]
        file.create_dataset(
            "pixels", data=pixels, chunks=(1, SIZE, SIZE, 3), compression=hdf5plugin.Blosc(cname="lz4")
        )
    read = "from pathlib import Path; from gje_world.data.hdf5 import import_hdf5; import sys; "
    read += f"import_hdf5(Path(sys.argv[1]), Path(sys.argv[2]), {SIZE})"
    command = [sys.executable, "-c", read, path, tmp_path / "back"]  # in a process without the import above
    subprocess.run(command, check=True)
    assert_same(clips, Clips.open(tmp_path / "back"))
