"""Short runs in processes of their own, which a test can watch, signal and kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import dot
import torch

from agents import train
from gje_world.training.checkpoint import CheckpointStore, step_of

# A server that has imported everything once forks each run: killing twenty of them takes seconds.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["tiny", "gje_world.plots.report", "gje_world.plots.film"])

OPTIONS = dot.OPTIONS | {"seed": 3, "steps": 300, "checkpoint_every": 25, "evaluation.every": 150}


class Run:
    """`gje-train` at work in `path`.

    Arguments:
        options: overrides of `OPTIONS`, by their dotted names.
        death: `("module:name", nth, "before" or "after", signal)`: where the process sends itself a signal.
    """

    def __init__(self, path: Path, options: dict | None = None, death: tuple | None = None):
        self.path, self.errors = path, path.with_suffix(".stderr")
        self.options = OPTIONS | (options or {})
        self.errors.write_text("")
        arguments = [f"{name}={value}" for name, value in self.options.items()]
        self.process = server.Process(
            target=work, args=([f"run_dir={path}", *arguments], self.errors, death), daemon=True
        )
        self.process.start()

    def wait_for(self, words: str) -> None:
        """Block until the run has printed `words` to standard error."""
        while words not in self.errors.read_text():
            assert self.process.is_alive(), self.errors.read_text()
            time.sleep(0.005)

    def wait_until_saved(self, step: int) -> None:
        """Block until less than one checkpoint's worth is left to `step`, which is then soon reached."""
        store = CheckpointStore(self.path / "checkpoints")
        soon = step - step % self.options["checkpoint_every"]
        while max(map(step_of, store.paths()), default=0) < soon:
            assert self.process.is_alive(), self.errors.read_text()
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        self.process.join(120)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def finish(self, status: int = 0) -> str:
        """Wait for an end with that exit status; what was printed to standard error."""
        code = self.end()
        assert code == status, self.errors.read_text()
        return self.errors.read_text()


def work(arguments: list[str], errors: Path, death: tuple | None) -> None:
    """The command, in the process of its own."""
    with errors.open("ab") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
    if death is not None:
        arm(*death)
    sys.argv = ["gje-train", *arguments]
    train.main()


def arm(where: str, nth: int, side: str, number: int) -> None:
    """Send this process a signal before or after the `nth` call of what stands at `where`."""
    module, _, name = where.partition(":")
    *path, last = name.split(".")
    owner = sys.modules[module]
    for word in path:
        owner = getattr(owner, word)
    original, calls = getattr(owner, last), [0]

    def deadly(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == nth and side == "before":
            os.kill(os.getpid(), number)
        result = original(*arguments, **keywords)
        if calls[0] == nth and side == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, deadly)


def metrics(path: Path, kinds=("train", "episode", "eval")) -> list[dict]:
    """Rows of those kinds without wall-clock fields."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != "time" and not name.startswith("speed/")}
        for row in rows
        if row["kind"] in kinds
    ]


def final_state(path: Path) -> dict:
    """What the newest checkpoint holds."""
    found = CheckpointStore(path / "checkpoints").load_latest()
    assert found is not None
    return found[0]


def assert_same_run(one: Path, other: Path, kinds=("train", "episode", "eval")) -> None:
    """Both runs have logged the same rows of those kinds and ended with the same weights, bit by bit."""
    assert metrics(one, kinds) == metrics(other, kinds)
    a, b = final_state(one), final_state(other)
    assert a["agent"].keys() == b["agent"].keys()
    for name, value in a["agent"].items():
        same = torch.equal(value, b["agent"][name]) if torch.is_tensor(value) else value == b["agent"][name]
        assert same, name
    assert torch.equal(a["random"]["torch"], b["random"]["torch"])
