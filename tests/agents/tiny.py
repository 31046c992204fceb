"""A run small enough to be killed and repeated in a test: seconds, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OPTIONS = [
    "seed=3",
    "steps=2400",
    "prefill=800",
    "batch_size=8",
    "log_every=10",
    "checkpoint_every=200",
    "threads=1",
    "env.image_size=32",
    "world={dim: 8, hidden: 16, encoder_width: 4}",
    "agent.hidden=16",
    "planner={candidates: 16, policy_candidates: 4, elites: 4, iterations: 2}",
    "evaluation={every: 1200, episodes: 2}",
]


def start(run_dir: Path, *options: str) -> subprocess.Popen[str]:
    """`gje-train` in a process of its own."""
    command = [sys.executable, "-m", "agents.train", f"run_dir={run_dir}", *OPTIONS, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(run_dir: Path, *options: str) -> str:
    """Run `gje-train` to its end; what it printed to standard error."""
    process = start(run_dir, *options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def wait_until_training(process: subprocess.Popen[str]) -> None:
    """Block until the run says that it begins."""
    assert process.stderr is not None
    for line in process.stderr:
        if "run_dir=" in line:
            return
    raise AssertionError("the run ended before it began")


def metrics(run_dir: Path) -> list[dict]:
    """Rows of the run without wall-clock fields."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != "time" and not name.startswith("speed/")}
        for row in rows
    ]
