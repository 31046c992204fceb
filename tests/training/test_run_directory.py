"""A run directory belongs to one run and one process, and says in one line why it cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from gje_world.training.run_directory import RunDirectory, RunDirectoryError, read_config

fork = multiprocessing.get_context("fork")

CONFIG: dict[str, Any] = {
    "task": "dmc/cartpole-swingup",
    "steps": 100_000,
    "lr": 1e-5,
    "run_dir": None,
    "world_model": {"dim": 64, "channels": (32, 64)},
}


def _with(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def test_a_new_directory_has_the_layout_and_the_config(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "a" / "b", CONFIG) as run:
        assert read_config(run.path) == _with(world_model={"dim": 64, "channels": [32, 64]})
        assert run.checkpoints.folder == run.path / "checkpoints"
        for folder in (run.films, run.plots, run.tensorboard, run.checkpoints.folder):
            assert folder.is_dir() and folder.parent == run.path
        assert (run.config.name, run.metrics.name, run.report.name) == (
            "config.yaml",
            "metrics.jsonl",
            "report.html",
        )


def test_the_same_config_takes_the_run_up(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.checkpoints.save(5, {"step": 5})
        written = run.config.stat().st_mtime_ns
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        assert run.checkpoints.load_latest()[0] == {"step": 5}
        assert run.config.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "config, named",
    [
        (_with(task="dmc/walker-walk"), "task: dmc/cartpole-swingup on disk, dmc/walker-walk asked"),
        (
            _with(world_model={"dim": 128, "channels": [32, 64]}),
            "world_model.dim: 64 on disk, 128 asked",
        ),
        (_with(world_model={"dim": 64}), r"world_model.channels: \[32, 64\] on disk, nothing asked"),
        (_with(extra=1), "extra: nothing on disk, 1 asked"),
        (_with(run_dir="x"), "run_dir: null on disk, x asked"),
    ],
)
def test_another_config_is_refused_by_option_and_values(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    RunDirectory.open(tmp_path / "run", CONFIG).close()
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(RunDirectoryError, match=named) as caught:
        RunDirectory.open(tmp_path / "run", config, changeable=["steps"])
    assert "choose another run_dir" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    RunDirectory.open(tmp_path / "run", CONFIG).close()  # the refusal gave the lock back


@pytest.mark.parametrize("changeable", ["steps", "world_model", "world_model.dim"])
def test_changeable_options_take_the_new_value(tmp_path: Path, changeable: str) -> None:
    changed = (
        _with(steps=200_000) if changeable == "steps" else _with(world_model={"dim": 1, "channels": [32, 64]})
    )
    RunDirectory.open(tmp_path / "run", CONFIG).close()
    RunDirectory.open(tmp_path / "run", changed, changeable=[changeable]).close()
    assert read_config(tmp_path / "run" / "config.yaml") == changed


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"file is a file; choose another run_dir"):
        RunDirectory.open(tmp_path / "file", CONFIG)
    with pytest.raises(RunDirectoryError, match=r"Not a directory.*choose another run_dir"):
        RunDirectory.open(tmp_path / "file" / "below", CONFIG)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_missing_write_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match="Permission denied"):
        RunDirectory.open(tmp_path / "run", CONFIG)


def _open_on_full_disk(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))
    try:
        RunDirectory.open(path, CONFIG)
    except RunDirectoryError as error:
        os._exit(7 if "cannot be used" in str(error) and "\n" not in str(error) else 8)


def test_a_full_disk_is_told_and_leaves_no_half_config(tmp_path: Path) -> None:
    child = fork.Process(target=_open_on_full_disk, args=(tmp_path / "run",))
    child.start()
    child.join(60)
    assert child.exitcode == 7
    assert not (tmp_path / "run" / "config.yaml").exists()
    RunDirectory.open(tmp_path / "run", CONFIG).close()


def test_checkpoints_without_a_config_are_not_continued(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.checkpoints.save(1, {})
        run.config.unlink()
    with pytest.raises(RunDirectoryError, match=r"holds checkpoints but no config\.yaml"):
        RunDirectory.open(tmp_path / "run", CONFIG)


def _hold(path: Path, ready: Any) -> None:
    run = RunDirectory.open(path, CONFIG)
    fork.Process(target=time.sleep, args=(20,), daemon=True).start()  # a worker, which outlives a kill
    ready.set()
    time.sleep(60)
    run.close()


def test_one_process_writes_a_run_and_a_kill_frees_it_though_workers_live_on(tmp_path: Path) -> None:
    ready = fork.Event()
    holder = fork.Process(target=_hold, args=(tmp_path / "run", ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(RunDirectoryError, match=rf"another process \(pid {holder.pid}\)"):
        RunDirectory.open(tmp_path / "run", CONFIG)
    holder.kill()
    holder.join(60)
    RunDirectory.open(tmp_path / "run", CONFIG).close()


def test_a_strangers_config_runs_nothing_and_reads_no_environment(tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    file = tmp_path / "config.yaml"
    file.write_text(f"task: !!python/object/apply:os.system ['touch {proof}']\n")
    with pytest.raises(RunDirectoryError, match=r"config.yaml cannot be read as plain YAML") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    file.write_text("task: ${oc.env:HOME}\n")
    assert read_config(tmp_path) == {"task": "${oc.env:HOME}"}


@pytest.mark.parametrize(
    "text, reason", [("- a\n", "not list"), ("", "not NoneType"), ("a: [", "plain YAML")]
)
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunDirectoryError, match=reason):
        read_config(tmp_path)


def test_a_directory_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it holds no config.yaml"):
        read_config(tmp_path)
