"""Predictors of one's own in the benchmark: `module:function`, and what tells its code from what it was."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from gje_world.data.world import World
from gje_world.evaluation.futures import Predictor
from gje_world.options import ConfigError
from gje_world.training.content import content_digest


def maker(name: str) -> Callable[[World, int], Predictor]:
    """The function that `name`, as in "module:function", stands for: from a world and a seed to a predictor.

    The module is looked for where Python is told to, and in the working directory.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    look_here()
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"predictors=[{name}] must be module:function to import: {error}") from error
    if not callable(found):
        raise ConfigError(f"predictors=[{name}] must be a function of a world and a seed")
    return found


def look_here() -> None:
    """Modules are looked for in the working directory too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def code_of(predictor: str) -> str | None:
    """What tells the file that a predictor of one's own stands in from what it was before or will be.

    None: it is ours, or there is no such file.
    """
    module, own, _ = predictor.partition(":")
    look_here()
    try:
        spec = importlib.util.find_spec(module) if own else None
    except (ImportError, ValueError):  # which `maker` will tell of
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return content_digest(Path(spec.origin))[:8]
