"""Suites: a table of many small fits, filled row by row, which goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gje_world.training.tables import Row, read_rows, write_rows


def fill_table(
    table: Path,
    wanted: Sequence[tuple[Any, ...]],
    key: Sequence[str],
    make: Callable[..., Row],
    *,
    updates: int,
    told: Callable[[Row], str],
    kinds: Mapping[str, Callable[[str], Any]],
    holds: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Makes the wanted rows that `table` lacks, each kept as soon as it is there; all its rows.

    Arguments:
        table: a CSV file, there or not.
        wanted: values of the `key` columns of each row.
        make: `make(*values, advance)` makes a row; it calls `advance()` after each gradient step.
        updates: gradient steps of a row, for the progress bar.
        told: a row in a line, for who watches.
        kinds: of columns that do not hold numbers (`read_rows`).
        holds: whether a row that is there still does; a wanted one that does not is made anew.
    """
    rows = read_rows(table, kinds)
    wanted = list(dict.fromkeys(wanted))

    def values_of(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in key)

    done = {values_of(row) for row in rows if values_of(row) in wanted and holds(row)}
    console = Console(stderr=True)
    look = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*look, console=console, disable=not console.is_terminal) as progress:
        suite = progress.add_task("all", total=len(wanted))
        steps = progress.add_task("updates", total=updates)
        for values in wanted:
            if values not in done:
                progress.reset(steps, description=", ".join(map(str, values)))
                if not console.is_terminal:
                    console.print(f"{', '.join(map(str, values))} …", highlight=False)
                made = make(*values, partial(progress.advance, steps))
                rows = [row for row in rows if values_of(row) != values] + [made]
                write_rows(table, rows)
                console.print(told(made), highlight=False, soft_wrap=True)
            progress.advance(suite)
    return rows
