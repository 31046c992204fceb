"""`gje-probe ambiguity`: what beliefs are worth on tasks whose truth is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from gje_world.evaluation.ambiguity import BELIEFS, COVERAGE_ERRORS, fit, fits, measure, portrait
from gje_world.evaluation.ambiguous_tasks import TASKS
from gje_world.options import ConfigError, option, plain_value, require_at_least, require_some
from gje_world.plots.ambiguity import write_report
from gje_world.training.atomic import replacing
from gje_world.training.devices import choose_device, keep_freed_memory, set_threads
from gje_world.training.origin import origin
from gje_world.training.run_directory import RunDirectory
from gje_world.training.suite import fill_table
from gje_world.training.tables import Row

logger = logging.getLogger(__name__)

ABOUT = """
gje-probe ambiguity: fit every belief to small tasks whose truth is known and squared loss must fail.

Each row of ambiguity.csv is one fit: held-out NLL minus the true entropy (nats per dimension), share of the
modes found, energy score, coverage errors, seconds of 1,000 updates. The same command on the same run
directory goes on where it stopped. Results stand in the run directory: ambiguity.csv, report.html, plots/.

  gje-probe ambiguity                                          every belief on every task it fits
  gje-probe ambiguity tasks=[sine,spiral] beliefs=[mixture]    some of them
  gje-probe ambiguity seeds=3                                  three fits of each

Tasks: {tasks}
Beliefs: {beliefs}
(polar is over vectors of at least two dimensions: not on tasks of one.)
""".format(tasks=", ".join(TASKS), beliefs=", ".join(BELIEFS))


@dataclass
class AmbiguityConfig:
    """Options of `gje-probe ambiguity`."""

    run_dir: str = option("runs/ambiguity", "where all is written")
    tasks: list[str] | None = option(None, "some of the tasks; null: all")
    beliefs: list[str] | None = option(None, "some of the beliefs; null: all")
    seeds: int = option(1, "fits of each belief to each task, with seeds from 1 on")
    updates: int = option(5_000, "gradient steps of a fit")
    batch_size: int = option(1_024, "fresh pairs of context and target in a step")
    lr: float = option(2e-3, "learning rate at the start; it falls to zero along a cosine")
    hidden: int = option(128, "width of the network's three layers")
    held_out: int = option(20_000, "pairs measured on")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    threads: int | None = option(None, "CPU threads; null: all cores")


# What may differ when a suite goes on: none of it changes a fit that is done.
CHANGEABLE = ("run_dir", "tasks", "beliefs", "seeds", "device", "threads")

TASK_ORDER, BELIEF_ORDER = ({name: place for place, name in enumerate(names)} for names in (TASKS, BELIEFS))
KINDS = {"seed": int, "dim": int} | dict.fromkeys(("task", "belief", "command", "commit", "machine"), str)


def check(config: AmbiguityConfig) -> None:
    """Refuses what cannot work, before any work.

    Raises:
        ConfigError: the first option found wrong.
    """
    require_at_least(1, config, "seeds", "updates", "batch_size", "hidden", "threads")
    require_at_least(256, config, "held_out")
    if not config.lr > 0:
        raise ConfigError(f"lr={config.lr} must be above 0")
    require_some(config, "tasks", list(TASKS))
    require_some(config, "beliefs", list(BELIEFS))
    tasks = config.tasks or list(TASKS)
    for belief in config.beliefs or ():
        if not any(fits(belief, TASKS[task]) for task in tasks):
            possible = ", ".join(name for name, task in TASKS.items() if fits(belief, task))
            raise ConfigError(f"beliefs={belief} fits none of tasks={', '.join(tasks)}; it fits {possible}")
    try:
        choose_device(config.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def ambiguity(config: AmbiguityConfig) -> int:
    """Fits and measures what is not yet done, row by row; the exit status."""
    check(config)
    set_threads(config.threads)
    keep_freed_memory()
    tasks, beliefs = config.tasks or list(TASKS), config.beliefs or list(BELIEFS)
    pairs = {(task, belief): fits(belief, TASKS[task]) for task in tasks for belief in beliefs}
    if unfit := [f"{belief} on {task}" for (task, belief), fit_there in pairs.items() if not fit_there]:
        logger.info("left out, as targets have too few dimensions: %s", ", ".join(unfit))
    wanted = [
        (task, belief, seed)
        for (task, belief), fit_there in pairs.items()
        if fit_there
        for seed in range(1, config.seeds + 1)
    ]
    with RunDirectory.open(config.run_dir, plain_value(config), changeable=CHANGEABLE) as run:
        folder = run.path / "portraits"
        folder.mkdir(exist_ok=True)
        rows = fill_table(
            run.path / "ambiguity.csv",
            wanted,
            ("task", "belief", "seed"),
            partial(fit_and_measure, config, folder),
            updates=config.updates,
            told=told,
            kinds=KINDS,
        )
        rows = sorted(
            rows, key=lambda row: (TASK_ORDER[row["task"]], BELIEF_ORDER[row["belief"]], row["seed"])
        )
        config_text = run.config.read_text(encoding="utf-8")
        report = write_report(run.path, rows, portraits(folder, rows), config_text)
    print(f"report: {report}")
    return 0


def fit_and_measure(
    config: AmbiguityConfig, folder: Path, task: str, belief: str, seed: int, advance: Callable[[], None]
) -> Row:
    """Fits one belief to one task; its row. Its portrait is saved in `folder`."""
    device, subject = choose_device(config.device), TASKS[task]
    network, seconds = fit(
        subject,
        belief,
        seed=seed,
        updates=config.updates,
        batch_size=config.batch_size,
        lr=config.lr,
        hidden=config.hidden,
        device=device,
        advance=advance,
    )
    scores = measure(subject, network, config.held_out, device)
    with torch.no_grad():
        points = portrait(subject, lambda x, count: network(x.to(device)).sample((count,)).cpu())
    path = folder / portrait_name(task, belief, seed)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, points.numpy())
    measured = scores | {"seconds_per_1000_updates": seconds}
    row: Row = {"task": task, "belief": belief, "seed": seed, "dim": subject.dim}
    row |= {name: None if value is None else round(value, 6) for name, value in measured.items()}
    return row | origin()


def told(row: Row) -> str:
    """A row in a line, for who watches."""
    parts = [f"gap {row['nll_gap']:.4f} nats/dim"]
    if row["mode_recall"] is not None:
        parts.append(f"recall {row['mode_recall']:.0%}")
    parts.append(f"coverage error {max(row[name] for name in COVERAGE_ERRORS):.1%}")
    return f"{row['task']}, {row['belief']}, seed {row['seed']}: {' · '.join(parts)}"


def portrait_name(task: str, belief: str, seed: int) -> str:
    return f"{task}-{belief}-{seed}.npy"


def portraits(folder: Path, rows: Sequence[Row]) -> dict[str, dict[str, np.ndarray]]:
    """Of every task in `rows`: the points `[P, 2]` of the truth, then of each belief's first fit.

    A fit whose portrait is not there, as in a table that came from elsewhere, is left out.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        task, belief, seed = row["task"], row["belief"], row["seed"]
        if task not in found:
            draw = partial(TASKS[task].draw, generator=Generator().manual_seed(0))
            found[task] = {"truth": portrait(TASKS[task], draw).numpy()}
        path = folder / portrait_name(task, belief, seed)
        if belief not in found[task] and path.exists():
            found[task][belief] = np.load(path)
    return found
