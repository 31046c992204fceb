"""Every row is whole, strict JSON, there at once, and cut back when a run goes on from a checkpoint."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gje_world.training.metrics import MetricsLog, read_metrics


def _open(folder: Path, **options: float | None) -> MetricsLog:
    return MetricsLog(folder / "metrics.jsonl", folder / "tensorboard", **options)


def test_a_row_is_readable_while_the_log_is_open(tmp_path: Path) -> None:
    with _open(tmp_path) as log:
        log.log("train", 8, {"loss/total": torch.tensor(0.5), "embedding/std": np.float32(0.1)})
        log.log("eval", 16, {"eval/returns": np.array([1.0, 2.0]), "eval/film": "films/ü.mp4", "n": 3})
        first, second = read_metrics(log.path)
    assert list(first)[:3] == ["step", "time", "kind"]
    assert {**first, "time": 0} == {
        "step": 8,
        "time": 0,
        "kind": "train",
        "loss/total": 0.5,
        "embedding/std": float(np.float32(0.1)),
    }
    assert second["eval/returns"] == [1.0, 2.0] and second["eval/film"] == "films/ü.mp4" and second["n"] == 3


def test_nan_and_infinity_are_null_in_strict_json(tmp_path: Path) -> None:
    with _open(tmp_path) as log:
        log.log("train", 0, {"a": float("nan"), "b": [1.0, float("-inf")], "c": torch.tensor(float("inf"))})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads(log.path.read_text(), parse_constant=refuse)
    assert (row["a"], row["b"], row["c"]) == (None, [1.0, None], None)


def test_a_value_that_is_no_number_is_named_and_no_half_row_written(tmp_path: Path) -> None:
    with _open(tmp_path) as log:
        with pytest.raises(TypeError, match="'loss/total' is a object"):
            log.log("train", 0, {"loss/nll": 1.0, "loss/total": object()})
        with pytest.raises(ValueError, match="'step'"):
            log.log("train", 0, {"step": 1.0})
    assert read_metrics(log.path) == []


def test_a_torn_last_line_is_left_out_and_a_broken_line_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = '{"step": 1, "time": 0.1, "kind": "train"}\n'
    path.write_text(row + row + '{"step": 2, "ti')
    assert [found["step"] for found in read_metrics(path)] == [1, 1]
    path.write_text(row + "{broken\n" + row)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2"):
        read_metrics(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: not an object with step, time and kind"):
        read_metrics(path)
    assert read_metrics(tmp_path / "none") == []


def test_going_on_cuts_what_was_logged_after_the_checkpoint(tmp_path: Path) -> None:
    with _open(tmp_path) as log:
        log.log("train", 10, {"loss": 1.0})
        offset, elapsed = log.offset, log.elapsed
        assert offset == log.path.stat().st_size
        log.log("train", 20, {"loss": 2.0})
    with log.path.open("a") as file:
        file.write('{"torn')
    with _open(tmp_path, resume_offset=offset, elapsed=elapsed + 100) as log:
        log.log("train", 20, {"loss": 3.0})
        assert log.offset == log.path.stat().st_size
    rows = read_metrics(log.path)
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 1.0), (20, 3.0)]
    assert rows[0]["time"] < 100 <= rows[1]["time"] < 160

    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.0), (20, 3.0)]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    with _open(tmp_path) as log:
        log.log("train", 10, {"loss": 1.0})
    with _open(tmp_path) as log:
        log.log("train", 10, {"loss": 2.0})
    assert [row["loss"] for row in read_metrics(log.path)] == [2.0]


def test_a_log_shorter_than_at_the_checkpoint_goes_on_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _open(tmp_path) as log:
        log.log("train", 10, {"loss": 1.0})
        log.log("train", 20, {"loss": 2.0})
        offset = log.offset
    log.path.write_bytes(log.path.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING), _open(tmp_path, resume_offset=offset) as log:
        log.log("train", 30, {"loss": 3.0})
    assert [row["step"] for row in read_metrics(log.path)] == [10, 30]
    assert "shorter than at the checkpoint" in caplog.text


def test_the_clock_goes_on(tmp_path: Path) -> None:
    with _open(tmp_path, elapsed=50.0) as log:
        time.sleep(0.02)
        assert 50.02 <= log.elapsed < 60
