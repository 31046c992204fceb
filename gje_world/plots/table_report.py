"""`report.html` of a suite: its figures under one title, with a few numbers above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from gje_world.plots.page import Page, Section, Tile, write_page
from gje_world.training.atomic import replacing


def write_table_report(
    run_dir: Path,
    title: str,
    subtitle: str,
    figures: Sequence[tuple[str, str, str, Figure]],
    tiles: Sequence[Tile],
    config: str,
) -> Path:
    """Writes `report.html`, and its figures in `plots/`; the path of the report.

    Arguments:
        figures: file name, title, caption and figure of each.
        config: the suite's options, as text.
    """
    sections = []
    for name, heading, caption, figure in figures:
        path = run_dir / "plots" / f"{name}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
        sections.append(Section(heading, caption, "", path.read_bytes(), round(90 * figure.get_figwidth())))
    page = Page(
        title=title,
        subtitle=subtitle,
        state="finished",
        running=False,
        done=1.0,
        tiles=tiles,
        sections=sections,
        config=config,
    )
    return write_page(run_dir, page)
