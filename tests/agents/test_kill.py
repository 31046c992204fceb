"""Nothing already computed is ever lost: a run that was killed ends as one that never was."""

import random
import signal
import time

import pytest
import tiny
import torch

from gje_world.training.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    tiny.finish(path)
    return path


def final_state(path):
    state, _ = CheckpointStore(path / "checkpoints").load_latest()
    return state


def assert_same_run(one, other):
    assert tiny.metrics(one) == tiny.metrics(other)
    a, b = final_state(one), final_state(other)
    assert a["agent"].keys() == b["agent"].keys()
    assert all(torch.equal(a["agent"][name], b["agent"][name]) for name in a["agent"])
    assert torch.equal(a["random"]["torch"], b["random"]["torch"])


def test_ten_sigkills_at_random_moments_change_nothing(whole, tmp_path):
    path, chance = tmp_path / "run", random.Random(0)
    for _ in range(10):
        process = tiny.start(path)
        tiny.wait_until_training(process)
        time.sleep(chance.uniform(0.0, 2.0))
        process.kill()
        process.communicate()
    tiny.finish(path)
    assert_same_run(whole, path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_at_once_and_the_run_goes_on(whole, tmp_path, number):
    path = tmp_path / "run"
    process = tiny.start(path, "checkpoint_every=100_000")
    tiny.wait_until_training(process)
    while not (path / "metrics.jsonl").exists() or "loss/nll" not in (path / "metrics.jsonl").read_text():
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "the same command goes on" in errors
    saved = final_state(path)["progress"]["step"]
    assert 800 < saved < 2400
    tiny.finish(path, "checkpoint_every=100_000")
    assert_same_run(whole, path)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(whole, tmp_path):
    path = tmp_path / "run"
    tiny.finish(path, "steps=1600")
    newest = CheckpointStore(path / "checkpoints").paths()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    errors = tiny.finish(path)
    assert newest.name in errors and "damaged" in errors
    assert_training_is_the_same(whole, path)


def test_a_longer_run_of_the_same_directory_is_the_run_asked_from_the_start(whole, tmp_path):
    path = tmp_path / "run"
    tiny.finish(path, "steps=1600")
    tiny.finish(path)
    assert_training_is_the_same(whole, path)


def test_a_replay_that_has_wrapped_round_resumes_exactly(tmp_path):
    small = "replay_capacity=60"
    tiny.finish(tmp_path / "whole", small)
    process = tiny.start(tmp_path / "killed", small)
    tiny.wait_until_training(process)
    while len(CheckpointStore(tmp_path / "killed" / "checkpoints").paths()) < 3:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    tiny.finish(tmp_path / "killed", small)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_how_often_a_run_is_evaluated_does_not_change_it(whole, tmp_path):
    tiny.finish(tmp_path / "run", "evaluation.every=400")
    assert_training_is_the_same(whole, tmp_path / "run")


def assert_training_is_the_same(one, other):
    """As `assert_same_run`, but for the evaluations, of which one run may have had more."""
    rows = [[row for row in tiny.metrics(path) if row["kind"] != "eval"] for path in (one, other)]
    assert rows[0] == rows[1]
    a, b = final_state(one), final_state(other)
    assert all(torch.equal(a["agent"][name], b["agent"][name]) for name in a["agent"])
