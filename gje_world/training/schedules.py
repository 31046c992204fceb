"""Learning-rate schedules: the factor of every rate at each update."""

from __future__ import annotations

import math
from collections.abc import Callable


def warm_cosine(updates: int, warm_up: int = 0) -> Callable[[int], float]:
    """Rises linearly over `warm_up` updates, then falls along a half cosine to zero at `updates`."""

    def factor(update: int) -> float:
        if update < warm_up:
            return (update + 1) / warm_up
        done = (update - warm_up) / max(1, updates - warm_up)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def phases(*lengths: int, warm_up: int = 0) -> Callable[[int], float]:
    """`warm_cosine` over each phase of so many updates, one after the other."""
    parts = [(length, warm_cosine(length, min(warm_up, length))) for length in lengths]

    def factor(update: int) -> float:
        for length, part in parts:
            if update < length:
                return part(update)
            update -= length
        return 0.0

    return factor
