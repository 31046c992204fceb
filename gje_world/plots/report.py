"""`report.html`: one page that shows how a run goes; `python -m gje_world.plots.report RUN_DIR`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from gje_world.plots import curves
from gje_world.plots.page import Page, Section, Tile, write_page
from gje_world.training.atomic import replacing
from gje_world.training.metrics import read_metrics
from gje_world.training.run_directory import RunDirectoryError, read_config

Rows = Sequence[Mapping[str, Any]]

_REFRESH_SECONDS = 30
_PIXELS_PER_INCH = 125  # of a figure on the page: text has one size in all of them

# file name, title, caption, function
_FIGURES: tuple[tuple[str, str, str, Callable[[Rows], Figure | None]], ...] = (
    (
        "learning_curve",
        "Learning curve",
        "Return of every training episode, and of the evaluation episodes with their fixed seeds.",
        curves.learning_curve,
    ),
    (
        "calibration",
        "Calibration of the beliefs",
        "How often the next embedding fell inside the region that was to hold it so often. On the diagonal "
        "the beliefs know what they do not know.",
        curves.calibration_curve,
    ),
    (
        "collapse_gauges",
        "Collapse gauges",
        "A collapse would show as embedding std and effective rank falling towards zero while the likelihood "
        "improves. Dashed: the coverage that beliefs of the right width have.",
        curves.collapse_gauges,
    ),
    (
        "state_probe",
        "State probe",
        "How much of the true state, which the agent never sees, a linear map reads from the embedding: 1 is "
        "all of it, 0 no more than its mean.",
        curves.state_probe,
    ),
    ("losses", "Losses", "Each term before its weight, faint as logged, bold smoothed.", curves.losses),
)


def write_report(run_dir: Path | str, *, running: bool = False) -> Path:
    """Writes `report.html` and the PNGs in `plots/` from what the run directory holds so far.

    Arguments:
        run_dir: a run directory; its metrics may be missing or have been started a moment ago.
        running: whether the run goes on; the page then reads itself again every half minute.

    Raises:
        RunDirectoryError: there is no run in `run_dir`.
        ValueError: a line of its metrics cannot be read.
    """
    run_dir = Path(run_dir)
    config = read_config(run_dir)
    rows = read_metrics(run_dir / "metrics.jsonl")
    (run_dir / "plots").mkdir(exist_ok=True)
    sections = [
        figure_section(run_dir / "plots" / f"{name}.png", title, caption, draw(rows))
        for name, title, caption, draw in _FIGURES
    ]
    sections.insert(1, _film(run_dir, rows))
    step = max((row["step"] for row in rows), default=0)
    total = config.get("steps")
    total = total if isinstance(total, int) and total > 0 else max(step, 1)
    words = [config[part]["name"] for part in ("objective", "belief") if part in config]
    page = Page(
        title=str(config.get("task", run_dir.name)),
        subtitle=" · ".join([*words, f"seed {config.get('seed', '–')}", run_dir.name]),
        state="running" if running else ("finished" if step >= total else "stopped"),
        running=running,
        done=step / total,
        tiles=_tiles(rows, step, total),
        sections=sections,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        refresh=_REFRESH_SECONDS if running else None,
    )
    return write_page(run_dir, page)


def figure_section(path: Path, title: str, caption: str, figure: Figure | None) -> Section:
    """The section that shows a figure, which is also written to `path`; None: nothing measured yet."""
    missing = "Nothing measured yet."
    if figure is None:
        return Section(title, caption, missing)
    image = _png(figure)
    with replacing(path) as temporary:
        temporary.write_bytes(image)
    return Section(title, caption, missing, image, round(figure.get_figwidth() * _PIXELS_PER_INCH))


def _tiles(rows: Rows, step: int, total: int) -> list[Tile]:
    evaluation = _latest(rows, "eval", "eval/return_mean")
    episode = _latest(rows, "episode", "episode/return")
    train = _latest(rows, "train", "speed/agent_steps_per_second")
    mean, deviation = _number(evaluation, "eval/return_mean"), _number(evaluation, "eval/return_std")
    speed = _number(train, "speed/agent_steps_per_second", digits=1)
    elapsed = str(timedelta(seconds=round(rows[-1]["time"]))) if rows else "–"
    return [
        Tile(mean if deviation == "–" else f"{mean} ± {deviation}", "evaluation return"),
        Tile(_number(episode, "episode/return"), "latest training return"),
        Tile(f"{step:,}", f"of {total:,} env frames"),
        Tile(speed, "agent steps/s"),
        Tile(elapsed, "elapsed"),
    ]


def _film(run_dir: Path, rows: Rows) -> Section:
    title, missing = "Latest film", "The first evaluation makes the first film."
    row = _latest(rows, "eval", "eval/film")
    if row is None:
        return Section(title, "One episode of the evaluation.", missing)
    # The name comes from the metrics file, which may be a stranger's: only films of this run are shown.
    path = (run_dir / str(row["eval/film"])).resolve()
    if not path.is_relative_to((run_dir / "films").resolve()) or not path.is_file():
        return Section(title, f"Evaluation at {row['step']:,} env frames.", "The film is not in films/.")
    caption = (
        f"One evaluation episode at {row['step']:,} env frames. Beneath it, the standard deviation that was "
        "predicted for the next embedding, how much what came surprised the belief, and the reward."
    )
    return Section(title, caption, missing, path.read_bytes())


def _latest(rows: Rows, kind: str, name: str) -> Mapping[str, Any] | None:
    return next((row for row in reversed(rows) if row["kind"] == kind and row.get(name) is not None), None)


def _number(row: Mapping[str, Any] | None, name: str, digits: int = 0) -> str:
    value = None if row is None else row.get(name)
    return "–" if value is None else f"{value:,.{digits}f}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: rebuilds the report of a run directory and prints where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m gje_world.plots.report", description="Rebuild report.html of a run directory."
    )
    parser.add_argument("run_dir", type=Path, help="the run directory, such as runs/cartpole-swingup")
    run_dir = parser.parse_args(arguments).run_dir
    try:
        print(write_report(run_dir))
    except (RunDirectoryError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
