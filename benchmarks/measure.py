"""What the benchmarks share: measuring each thing in a process of its own, and results as CSV."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from gje_world.training.devices import set_threads
from gje_world.training.origin import origin
from gje_world.training.tables import write_rows

Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *args) -> Result:
    """`function(*args)` in a fresh process, whose settings and memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def medians(kinds: Mapping[str, Callable[..., float]], *args, rounds: int) -> dict[str, float]:
    """Median over `rounds` of what each of `kinds` returns for `args`; in turn, each in its own process."""
    results: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, function in kinds.items():
            results[name].append(in_own_process(function, *args))
    return {name: statistics.median(values) for name, values in results.items()}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A benchmark's command line, described by the first line of its docstring, with `--csv`."""
    found = argparse.ArgumentParser(
        description=(doc or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    found.add_argument(
        "--csv", type=Path, help="also write the results here, with command, commit and machine"
    )
    return found


def fast_against_plain(
    doc: str | None,
    fast: Callable[..., float],
    plain: Callable[..., float],
    *,
    timed: str,
    count: int,
    **columns: object,
) -> None:
    """Command line of a benchmark of two kinds of one thing: measures, prints, writes a row if asked to.

    Arguments:
        doc: of the benchmark.
        fast, plain: take how often, and threads; return the seconds of one.
        timed: what it is called.
        count: how often it is timed in a round, unless told otherwise.
        columns: more of the row.
    """
    options = parser(doc)
    options.add_argument(f"--{timed}s", dest="count", type=int, default=count, help=f"timed {timed}s a round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()
    kinds = {"fast": fast, "plain": plain}
    found = medians(kinds, arguments.count, arguments.threads, rounds=arguments.rounds)
    ratio, threads = found["plain"] / found["fast"], set_threads(arguments.threads)
    print(f"{'plain':>8}{'fast':>8}{'ratio':>8}   seconds per {timed}, {threads} threads")
    print(f"{found['plain']:>8.3f}{found['fast']:>8.3f}{ratio:>7.1f}×")
    if arguments.csv is not None:
        row: dict[str, object] = {f"{kind}_seconds": f"{found[kind]:.4f}" for kind in ("plain", "fast")}
        write_csv(arguments.csv, [row | {"ratio": f"{ratio:.2f}"} | columns | {"threads": threads}])


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write `rows`, each with the command, commit and machine that made it, unless it says so."""
    made_by = origin()
    write_rows(
        path, [row | {name: told for name, told in made_by.items() if name not in row} for row in rows]
    )
