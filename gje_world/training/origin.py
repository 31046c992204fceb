"""Where a result comes from: what anyone needs to get it again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def origin() -> dict[str, str]:
    """Command, commit and machine of this process, as they stand beside every measured result."""
    program, *arguments = sys.argv
    name = Path(program).name
    command = ["python", os.path.relpath(program)] if name.endswith(".py") else [name]
    return {"command": shlex.join([*command, *arguments]), "commit": _commit(), "machine": _machine()}


def origin_of(run: Path) -> dict[str, str]:
    """The origin of what a run directory holds: of the process that began it, whoever asks."""
    return json.loads((run / "origin.json").read_text(encoding="utf-8"))


def origin_measuring(run: Path) -> dict[str, str]:
    """The origin of what this process measures of a run: its command, with the run's commit and machine."""
    made_by = origin_of(run)
    return origin() | {name: made_by[name] for name in ("commit", "machine")}


def _commit() -> str:
    """The checked-out commit, "-dirty" where files differ from it, "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return git.stdout.strip() or "unknown"


def _machine() -> str:
    """Processor, cores, GPU if any, and the torch build; Linux tells the processor's model only in /proc."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [models[0] if models else platform.machine(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])
