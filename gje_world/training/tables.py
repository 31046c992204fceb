"""Tables of results, row by row: as CSV to go on from, and as Markdown to read."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gje_world.training.atomic import replacing

Row = dict[str, Any]


def read_rows(path: Path, kinds: Mapping[str, Callable[[str], Any]]) -> list[Row]:
    """Rows so far, an empty cell as None; none where there is no file.

    Arguments:
        kinds: what turns a column's cells into values; those it does not name are numbers.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {name: kinds.get(name, float)(cell) if cell else None for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """All rows anew, so that a kill leaves the table with or without the last one, never half of it.

    A column that some rows lack is empty in theirs. The folder is made if missing.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_markdown(path: Path, rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> None:
    """A Markdown table of `rows`, with a column for each title and what it says of a row."""
    lines = [
        list(columns),
        ["---"] * len(columns),
        *([told(row) for told in columns.values()] for row in rows),
    ]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
