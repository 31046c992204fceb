"""Lightly's losses, also where torchvision's compiled operators do not fit this build of torch."""

from __future__ import annotations

import importlib
import runpy
from pathlib import Path
from types import ModuleType

import pytest

# kept, as the operators are gone when it is
ANYHOW = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "torchvision_anyhow.py"))


def lightly_losses() -> ModuleType:
    """`lightly.loss`; skips the test where lightly is not installed."""
    try:
        ANYHOW["import_torchvision"]()
    except ImportError:
        pytest.skip("no torchvision")
    pytest.importorskip("lightly", exc_type=ImportError)
    return importlib.import_module("lightly.loss")
