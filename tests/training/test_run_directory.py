"""A run directory belongs to one run and one process, and says in one line why it cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gje_world.training.run_directory import RunDirectory, RunDirectoryError, plain_config, read_config

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


def test_what_an_earlier_version_had_no_option_for_is_as_it_is_by_default(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "run", CONFIG).close()
    defaults = {"extra": None, "lr": 1.0, "gone": 3}
    now = RunDirectory.open(tmp_path / "run", _with(extra=None), defaults=defaults)
    assert read_config(now.path)["extra"] is None
    now.close()
    with pytest.raises(RunDirectoryError, match="extra: null on disk, 1 asked"):
        RunDirectory.open(tmp_path / "run", _with(extra=1), defaults=defaults)


@pytest.mark.parametrize(
    "changeable, changed",
    [
        ("steps", _with(steps=200_000)),
        ("world_model", _with(world_model={"dim": 1, "channels": (8,)})),
        ("world_model.dim", _with(world_model={"dim": 1, "channels": (32, 64)})),
    ],
)
def test_changeable_options_take_the_new_value(
    tmp_path: Path, changeable: str, changed: dict[str, Any]
) -> None:
    RunDirectory.open(tmp_path / "run", CONFIG).close()
    RunDirectory.open(tmp_path / "run", changed, changeable=[changeable]).close()
    assert read_config(tmp_path / "run" / "config.yaml") == plain_config(changed)


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


def test_a_folder_with_files_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"holds metrics\.jsonl but no config\.yaml"):
        RunDirectory.open(tmp_path, CONFIG)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine" and not (tmp_path / "config.yaml").exists()


def test_checkpoints_without_a_config_are_not_continued(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG) as run:
        run.checkpoints.save(1, {})
        run.config.unlink()
    with pytest.raises(RunDirectoryError, match=r"holds checkpoints, .* but no config\.yaml"):
        RunDirectory.open(tmp_path / "run", CONFIG)


def _hold(path: Path, worker: Any) -> None:
    with RunDirectory.open(path, CONFIG):
        process = fork.Process(target=time.sleep, args=(60,))  # a worker, which outlives a kill
        process.start()
        worker.put(process.pid)
        time.sleep(60)


def test_one_process_writes_a_run_and_a_kill_frees_it_though_workers_live_on(tmp_path: Path) -> None:
    worker = fork.SimpleQueue()
    holder = fork.Process(target=_hold, args=(tmp_path / "run", worker))
    holder.start()
    worker_pid = worker.get()
    try:
        with pytest.raises(RunDirectoryError, match=rf"another process \(pid {holder.pid}\)"):
            RunDirectory.open(tmp_path / "run", CONFIG)
        os.kill(holder.pid, signal.SIGKILL)
        os.waitpid(holder.pid, 0)  # join() would wait for the worker too, which shares the holder's pipes
        RunDirectory.open(tmp_path / "run", CONFIG).close()
    finally:
        os.kill(worker_pid, signal.SIGKILL)


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
