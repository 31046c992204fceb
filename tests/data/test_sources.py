"""Every source of clips, from files on disk to the report of a run that learnt from them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from film_files import write_video

from gje_world.data import Clips
from gje_world.training.metrics import read_metrics
from gje_world.video.command import main

SIZE = 32
SHORT = [
    "preset=debug", f"data.image_size={SIZE}", "engine.threads=1", "engine.device=cpu", "engine.updates=2",
    "engine.evaluate_every=2", "engine.checkpoint_every=2", "engine.log_every=1", "frame_stack=2",
    "predictor.history=3", "evaluation.clips=4", "evaluation.horizon=2", "evaluation.particles=4",
]  # fmt: skip


def run(*arguments: str) -> None:
    sys.argv = ["gje-video", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def to_report(path: Path, cache: Path, *source: str) -> dict:
    """The last evaluation of a short run in `path`, whose report shows everything."""
    run(*SHORT, f"run_dir={path}", f"data.cache={cache}", *source)
    report = (path / "report.html").read_text()
    assert "finished" in report and "Sampled futures" in report
    assert "Nothing measured yet" not in report
    assert ("State probes" in report) == ("data=films" not in source)  # whose true state is not known
    assert list((path / "films").glob("*.mp4"))
    return [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "eval"][-1]


def test_a_folder_of_films_comes_to_a_report(tmp_path, capsys, caplog):
    films = tmp_path / "films"
    films.mkdir()
    chance = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        blocks = chance.integers(256, size=(20, 4, 4, 3), dtype=np.uint8)
        write_video(films / f"{name}.mp4", blocks.repeat(12, 1).repeat(12, 2))
    (films / "d.mp4").write_bytes(b"no film")
    row = to_report(tmp_path / "run", tmp_path / "cache", "data=films", f"data.path={films}")
    assert len(row["foresight/nll"]) == 2 and not any(name.startswith("probe/") for name in row)
    assert "d.mp4 is skipped" in caplog.text
    assert "40 frames learnt from; clips: 2 learnt from, 1 measured on" in capsys.readouterr().err
    (cache,) = (tmp_path / "cache").iterdir()
    made = (cache / "frames.bin").stat().st_mtime_ns
    run(*SHORT, f"run_dir={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", "data=films",
        f"data.path={films}")  # fmt: skip
    assert (cache / "frames.bin").stat().st_mtime_ns == made


def test_a_recording_in_hdf5_comes_to_a_report(tmp_path, capsys):
    pytest.importorskip("dm_control")
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "cartpole.h5"
    record = ["record", "task=dmc/cartpole-swingup", f"out={path}", f"image_size={SIZE}", "action_repeat=20",
              "length=12"]  # fmt: skip
    run(*record, "episodes=2")
    run(*record, "episodes=3")
    assert f"3 episodes, 36 frames: {path}" in capsys.readouterr().out
    with h5py.File(path) as file:
        assert file["pixels"].shape == (36, SIZE, SIZE, 3) and file["ep_len"][:].tolist() == [12, 12, 12]
        assert file["action"].shape == (36, 1) and np.ptp(file["pixels"][:]) > 50
        names = list(file["state"].attrs["names"])
    row = to_report(tmp_path / "run", tmp_path / "cache", "data=hdf5", f"data.path={path}")
    assert {f"probe/r2/{name}" for name in names} <= row.keys()
    (cache,) = (tmp_path / "cache").iterdir()
    assert cache.name.startswith("cartpole-")
    recorded, imported = Clips.open(tmp_path / "cartpole"), Clips.open(cache)
    assert imported.state_names == recorded.state_names and imported.action_dim == 1
    for one, other in zip(recorded.window(2, 0, 12), imported.window(2, 0, 12), strict=True):
        assert one.equal(other)
