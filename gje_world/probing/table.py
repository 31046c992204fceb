"""Tables of results to read, the best of each column in bold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gje_world.training.tables import Row


def markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """The rows as a Markdown table; numbers with three digits, the best of a column in bold.

    Arguments:
        columns: titles by name. One that ends in "↑" or "↓" says which way is better.
    """
    there = {name: title for name, title in columns.items() if any(row.get(name) is not None for row in rows)}
    best = {name: best_of(rows, name, title) for name, title in there.items()}
    lines = ["| " + " | ".join(there.values()) + " |", "| " + " | ".join("---" for _ in there) + " |"]
    for row in rows:
        cells = [_cell(row.get(name), best[name]) for name in there]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def best_of(rows: Sequence[Row], name: str, title: str) -> float | None:
    """Best number of a column of more than one, None where its title says no better way."""
    numbers = [row[name] for row in rows if isinstance(row.get(name), float) and math.isfinite(row[name])]
    if len(numbers) < 2 or title[-1] not in "↑↓":
        return None
    return max(numbers) if title.endswith("↑") else min(numbers)


def _cell(value: Any, best: float | None) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value).replace("|", "\\|")
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"
