"""Torchvision, also where its compiled operators do not fit this build of torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

OPERATORS = ("nms", "qnms")  # that it wants to find when imported; nothing here uses them
_library = torch.library.Library("torchvision", "FRAGMENT")  # its operators last as long as it does


def import_torchvision() -> ModuleType:
    """Torchvision, if need be with operators that are named but do nothing.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for operator in OPERATORS:
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")
