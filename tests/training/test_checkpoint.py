"""A checkpoint is whole or absent, is checked when read, and runs no code."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gje_world.training import checkpoint as checkpoint_module
from gje_world.training.checkpoint import CheckpointError, CheckpointStore, load_checkpoint

fork = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_what_is_saved_comes_back_bit_for_bit(store: CheckpointStore) -> None:
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "replay": {"returns": np.array([1, 2**63], dtype=np.uint64), "mean": np.float32(0.1)},
        "plain": [None, True, 3, 2**127, 0.1, float("inf"), "ü", b"\x00\xff", (1, ("a",))],
    }
    store.save(10, state)
    loaded, _ = store.load_latest()
    assert loaded["plain"] == state["plain"]
    assert loaded["replay"]["mean"] == float(np.float32(0.1))
    assert np.array_equal(loaded["replay"]["returns"].numpy(), state["replay"]["returns"])
    assert torch.equal(loaded["half"].view(torch.int16), state["half"].view(torch.int16))
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(loaded["network"])
    assert torch.equal(other.weight, network.weight)
    torch.optim.Adam(other.parameters()).load_state_dict(loaded["optimiser"])
    averages = loaded["optimiser"]["state"][0]["exp_avg"]
    assert torch.equal(averages, optimiser.state_dict()["state"][0]["exp_avg"])


def test_a_view_does_not_drag_its_whole_storage_along(store: CheckpointStore) -> None:
    path = store.save(1, {"row": torch.zeros(1000, 1000)[0]})
    assert path.stat().st_size < 20_000


def test_the_last_three_are_kept(store: CheckpointStore) -> None:
    for step in (1, 5, 20, 100, 1000):
        store.save(step, {"step": step})
    assert [load_checkpoint(path)["step"] for path in store.paths()] == [20, 100, 1000]
    assert store.load_latest()[0] == {"step": 1000}


def test_one_checkpoint_is_kept_where_one_is_asked_for(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (1, 2):
        store.save(step, {"step": step})
    assert [load_checkpoint(path)["step"] for path in store.paths()] == [2]


def test_a_store_without_checkpoints_loads_none(store: CheckpointStore) -> None:
    assert store.load_latest() is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_newest_is_named_and_the_one_before_it_used(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = store.save(1, {"weights": torch.arange(100)})
    newest = store.save(2, {"weights": torch.arange(100) + 1})
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-1], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        state, path = store.load_latest()
    assert path == before
    assert torch.equal(state["weights"], torch.arange(100))
    assert str(newest) in caplog.text and "damaged" in caplog.text


def test_a_run_that_fell_back_replaces_the_damaged_one(store: CheckpointStore) -> None:
    store.save(1, {"step": 1})
    store.save(3, {"step": 3}).write_bytes(b"damaged")
    store.save(2, {"step": 2})
    assert [load_checkpoint(path)["step"] for path in store.paths()] == [1, 2]


def test_all_damaged_is_an_error_that_says_so(store: CheckpointStore) -> None:
    for step in (1, 2):
        store.save(step, {}).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints in .* are damaged"):
        store.load_latest()


def test_a_torn_temporary_file_is_ignored_and_replaced(store: CheckpointStore) -> None:
    kept = store.save(1, {"step": 1})
    torn = store.folder / ".saving.tmp"
    torn.write_bytes(kept.read_bytes()[:50])
    assert store.load_latest() == ({"step": 1}, kept)
    store.save(2, {"step": 2})
    assert not torn.exists()


class Touch:
    """Pickles into a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_strangers_code_is_not_run(
    store: CheckpointStore, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, {"step": 1})
    evil = tmp_path / "evil"
    proof = tmp_path / "it-ran"
    if protocol == "torch":
        torch.save({"step": Touch(proof)}, evil)
    else:
        evil.write_bytes(pickle.dumps({"step": Touch(proof)}))
    digest = hashlib.sha256(evil.read_bytes()).hexdigest()[:16]
    planted = evil.rename(store.folder / f"step_000000002-{digest}.pt")
    state, _ = store.load_latest()
    assert state == {"step": 1}
    assert not proof.exists()
    assert str(planted) in caplog.text and "refused" in caplog.text
    assert "weights_only" not in caplog.text  # torch's own advice, to load it all the same


def test_what_a_checkpoint_cannot_hold_is_named_before_anything_is_written(store: CheckpointStore) -> None:
    with pytest.raises(TypeError, match=r"state\['agent'\]\[1\] is a Path|PosixPath"):
        store.save(1, {"agent": [1, Path("x")]})
    with pytest.raises(TypeError, match=r"state has the key \(1, 2\)"):
        store.save(1, {(1, 2): 3})
    assert store.paths() == []


def _kill_at(store: CheckpointStore, moment: str) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "half written":

        def half(state: object, file) -> None:
            file.write(b"PK\x03\x04 half of it")
            file.flush()
            die()

        checkpoint_module.torch.save = half
    elif moment == "before the rename":
        checkpoint_module.commit = die
    else:
        Path.unlink = die  # the first pruning
    store.save(4, {"step": 4})


@pytest.mark.parametrize("moment, newest", [("half written", 3), ("before the rename", 3), ("pruning", 4)])
def test_a_kill_at_any_moment_of_a_save_leaves_the_newest_whole_one(
    store: CheckpointStore, moment: str, newest: int
) -> None:
    for step in (1, 2, 3):
        store.save(step, {"step": step})
    child = fork.Process(target=_kill_at, args=(store, moment))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert store.load_latest()[0] == {"step": newest}
    store.save(5, {"step": 5})
    assert [load_checkpoint(path)["step"] for path in store.paths()][-1] == 5
    assert len(store.paths()) == 3


def _save_for_ever(store: CheckpointStore, start: int) -> None:
    torch.set_num_threads(1)
    for step in range(start, start + 1_000_000):
        store.save(step, {"step": step, "weights": torch.full((50_000,), float(step))})


def test_ten_kills_at_random_moments(store: CheckpointStore) -> None:
    random = np.random.default_rng(0)
    step = 0
    store.save(step, {"step": 0, "weights": torch.zeros(50_000)})
    for _ in range(10):
        child = fork.Process(target=_save_for_ever, args=(store, step + 1))
        child.start()
        time.sleep(random.uniform(0.05, 0.25))
        child.kill()
        child.join(60)
        state, path = store.load_latest()
        assert path == store.paths()[-1]  # never damaged
        assert state["step"] >= step
        assert torch.equal(state["weights"], torch.full((50_000,), float(state["step"])))
        step = state["step"]
    assert step > 10


def _save_on_full_disk(store: CheckpointStore, state: dict) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        store.save(2, state)
    except CheckpointError as error:
        os._exit(7 if "checkpoint of step 2 not written" in str(error) and "\n" not in str(error) else 8)


def test_a_full_disk_is_one_line_and_leaves_the_former_checkpoint(store: CheckpointStore) -> None:
    kept = store.save(1, {"step": 1})
    # made here: a forked child has lost torch's threads and would wait for them
    state = {"weights": torch.zeros(1_000_000)}
    child = fork.Process(target=_save_on_full_disk, args=(store, state))
    child.start()
    child.join(60)
    assert child.exitcode == 7
    assert [path.name for path in store.folder.iterdir()] == [kept.name]
