"""`report.html` of a video run: sampled futures beside the true one, and every score of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from gje_world.evaluation.pictures import Gallery
from gje_world.plots import foresight
from gje_world.plots.gallery import directions_grid, futures_film, futures_grid, heat_grid
from gje_world.plots.page import Page, Section, Tile, write_page
from gje_world.plots.report import figure_section
from gje_world.training.atomic import replacing
from gje_world.training.metrics import read_metrics
from gje_world.training.run_directory import read_config

Rows = Sequence[Mapping[str, Any]]

REFRESH_SECONDS = 30

# file name, title, caption, function
FIGURES: tuple[tuple[str, str, str, Callable[[Rows], Figure | None]], ...] = (
    (
        "steps_ahead",
        "How far ahead",
        "Held-out clips. While the belief is below the marginal Gaussian, it knows more than how embeddings "
        "are spread at any time. Beyond one step, likelihoods are those of the Gaussian of the belief's mean "
        "and covariance.",
        foresight.steps_ahead,
    ),
    (
        "calibration",
        "Calibration of the beliefs",
        "How often what happened lay inside the region that was to hold it so often; and where it ranked "
        "among draws: level if the beliefs are right, a hill if they are too wide, a valley if too narrow. "
        "Where clips are kept for it (evaluation.kept), they have told before how wide beliefs are to be.",
        foresight.calibration,
    ),
    (
        "pictures",
        "How alike the pictures are",
        "Decoded futures of held-out clips beside what happened: that of the mean, sampled futures, and of "
        "each clip the sample that is most alike over all steps. Higher is more alike; where several "
        "futures are possible, the mean of them is a blur and only the best sample can be right.",
        foresight.pictures,
    ),
    (
        "surprise",
        "Surprise and retrieval",
        "How reliably −log p tells what cannot happen from what did (AUROC: 1 always, 0.5 no better than "
        "chance, less where the impossible seems likelier), and how high a belief ranks its own future among "
        "those of other clips and other moments of its own, beyond one step by the Gaussian of its mean and "
        "covariance. A mean reciprocal rank is to be held against that of chance.",
        foresight.surprise_and_retrieval,
    ),
    (
        "probes",
        "State probes",
        "How much of the true state, which the model never sees, a linear map reads from the embedding, and "
        "of the state in the end from the mean of what it expects; the stroke is what it would read if all "
        "stayed where it was seen last.",
        foresight.probes,
    ),
    (
        "learning",
        "Learning",
        "Each term of the loss before its weight; gauges of collapse.",
        foresight.learning,
    ),
)
GRIDS = (
    (
        "futures",
        "Sampled futures",
        "A held-out clip: what was seen, what happened, what was expected in the mean, and sampled futures. "
        "Decoded for looking only: no gradient of the decoder reaches the encoder. Last row: where the "
        "samples differ.",
    ),
    (
        "heat",
        "What the belief rests on",
        "By how much the entropy of the belief about the next embedding grows (red) or falls (blue) where a "
        "grey square hides a part of the newest frame.",
    ),
    (
        "directions",
        "What could change",
        "The leading directions of the last belief's covariance, decoded two standard deviations to either "
        "side.",
    ),
)
PIXELS_PER_INCH = 125


def save_gallery(run_dir: Path, update: int, gallery: Gallery) -> dict[str, str]:
    """Write the grids to `plots/` and the film to `films/`; the film's name, for the row of metrics."""
    film = run_dir / "films" / f"update_{update:09d}.mp4"
    futures_film(film, gallery.past, gallery.truth, gallery.mean, gallery.samples)
    parts = gallery.past[0], gallery.truth[0], gallery.mean[0], gallery.samples[:, 0]
    figures = {
        "futures": futures_grid(*parts),
        "heat": heat_grid(gallery.past[: len(gallery.heat), -1], gallery.heat),
        "directions": directions_grid(gallery.directions[0]),
    }
    for name, figure in figures.items():
        with replacing(run_dir / "plots" / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=160)
    return {"eval/film": f"films/{film.name}"}


def write_video_report(run_dir: Path | str, *, running: bool = False) -> Path:
    """Writes `report.html` from what the run directory holds so far.

    Arguments:
        run_dir: a run directory of `gje-video`.
        running: whether the run goes on; the page then reads itself again every half minute.

    Raises:
        RunDirectoryError: there is no run in `run_dir`.
        ValueError: a line of its metrics cannot be read.
    """
    run_dir = Path(run_dir)
    config, rows = read_config(run_dir), read_metrics(run_dir / "metrics.jsonl")
    sections = [grid_section(run_dir, *grid) for grid in GRIDS]
    sections.insert(1, film_section(run_dir, rows))
    sections += [
        figure_section(run_dir / "plots" / f"{name}.png", title, caption, figure)
        for name, title, caption, figure in (
            (name, title, caption, draw(rows)) for name, title, caption, draw in FIGURES
        )
        if figure is not None or foresight.last_evaluation(rows) is None  # films have no state to probe
    ]
    update = max((row["step"] for row in rows), default=0)
    total = max(int(config.get("engine", {}).get("updates", 1)), 1)
    page = Page(
        title=run_dir.name,
        subtitle=f"seed {config.get('seed', '–')} · gje-video",
        state="running" if running else ("finished" if update >= total else "stopped"),
        running=running,
        done=update / total,
        tiles=tiles(rows, update, total),
        sections=sections,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        refresh=REFRESH_SECONDS if running else None,
    )
    return write_page(run_dir, page)


def grid_section(run_dir: Path, name: str, title: str, caption: str) -> Section:
    """The section of a grid that an evaluation has drawn."""
    path, missing = run_dir / "plots" / f"{name}.png", "The first evaluation draws it."
    return Section(title, caption, missing, path.read_bytes() if path.is_file() else None, 900)


def film_section(run_dir: Path, rows: Rows) -> Section:
    """The newest film."""
    caption = (
        "Held-out clips, from left to right: what happened, the mean, and five sampled futures. "
        "Lines between them turn orange where what was seen ends and what is foretold begins."
    )
    row = foresight.last_evaluation(rows)
    # the name comes from the metrics file, which may be a stranger's: only films of this run are shown
    path = run_dir / "films" / Path(str((row or {}).get("eval/film"))).name
    film = path.read_bytes() if row is not None and path.is_file() else None
    return Section("The same as a film", caption, "The first evaluation makes the first film.", film)


def tiles(rows: Rows, update: int, total: int) -> list[Tile]:
    """Key figures of the newest evaluation."""
    row: Mapping[str, Any] = foresight.last_evaluation(rows) or {}

    def number(name: str, digits: int = 2, place: int | None = None) -> str:
        value = row.get(name)
        if place is not None and value is not None:
            value = value[min(place, len(value) - 1)]
        return "–" if value is None else f"{value:.{digits}f}"

    elapsed = str(timedelta(seconds=round(rows[-1]["time"]))) if rows else "–"
    biases = row.get("calibration/one_step_held_out")
    bias = "–"
    if biases:
        worst = max(range(len(biases)), key=lambda level: abs(biases[level]))
        error = row.get("calibration/stderr_1", [None] * len(biases))[worst]  # of one clip there is none
        bias = f"{biases[worst]:+.3f}" + ("" if error is None else f" ± {error:.3f}")
    return [
        Tile(number("foresight/nll", 3, 0), "NLL one step ahead, nats per dimension"),
        Tile(
            number("measured/windows", 0),
            f"windows of {number('measured/clips', 0)} held-out clips that this is measured on",
        ),
        Tile(number("foresight/horizon", 0), "steps ahead better than the marginal"),
        Tile(bias, "coverage minus nominal, one step ahead, largest"),
        Tile(number("surprise/all", 3), "surprise AUROC"),
        Tile(
            number("retrieval/mrr_1", 3),
            f"mean reciprocal rank one step ahead; {foresight.retrieval_words(row, 1) or 'chance unknown'}",
        ),
        Tile(f"{update:,}", f"of {total:,} updates"),
        Tile(elapsed, "elapsed"),
    ]
