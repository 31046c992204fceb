"""Lightly's losses, also where torchvision's compiled operators do not fit this build of torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

OPERATORS = ("nms", "qnms")  # that torchvision wants to find when imported; none of them is used here
_library = torch.library.Library("torchvision", "FRAGMENT")


def lightly_losses() -> ModuleType:
    """`lightly.loss`; skips the test where lightly is not installed."""
    pytest.importorskip("lightly", exc_type=ImportError) if importable("torchvision") else pytest.skip(
        "no torchvision"
    )
    return importlib.import_module("lightly.loss")


def importable(name: str) -> bool:
    """Whether `name` can be imported, if need be with operators that are named but do nothing."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    except RuntimeError:
        for operator in OPERATORS:
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module(name)
    return True
