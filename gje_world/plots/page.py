"""The report as one HTML page: no script, nothing fetched from anywhere, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from gje_world.training.atomic import replacing
from gje_world.training.origin import origin_of

_STYLE = """
:root { color-scheme: light; --ink: #22303c; --muted: #66727f; --line: #e1e6eb; --blue: #2c6e9c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 2px; }
p { margin: 0 0 14px; color: var(--muted); font-size: 14.5px; }
.subtitle { margin: 6px 0 0; }
.state { display: inline-block; margin-left: 12px; padding: 3px 10px; border-radius: 99px; font-size: 13px;
         line-height: 1.4; letter-spacing: 0; font-weight: 600; vertical-align: 4px; color: #3c6b48;
         background: #e3f1e6; }
.state.running { color: #8a5a12; background: #fbefd9; }
.bar { height: 6px; border-radius: 3px; background: var(--line); margin: 20px 0; overflow: hidden; }
.bar div { height: 100%; background: var(--blue); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
         margin-bottom: 12px; }
.tile, section { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; }
section { padding: 20px 24px 22px; margin-top: 12px; }
img, video { display: block; max-width: 100%; height: auto; margin: 0 auto; }
video { border-radius: 6px; border: 1px solid var(--line); width: 384px; }
.missing { padding: 26px; text-align: center; border: 1px dashed var(--line); border-radius: 6px; margin: 0; }
details summary { cursor: pointer; font-weight: 600; font-size: 18px; }
pre { overflow-x: auto; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; margin: 14px 0 0; }
""".strip()


@dataclass(frozen=True)
class Tile:
    """A key figure: "812 ± 30" over "evaluation return"."""

    value: str
    name: str


@dataclass(frozen=True)
class Section:
    """A titled part of the page. `media` is a PNG or an mp4 (None: `missing` is said in its place)."""

    title: str
    caption: str
    missing: str
    media: bytes | None = None
    width: int = 0  # of a PNG, in CSS pixels


@dataclass(frozen=True)
class Page:
    """All that the report says. `done` is the share of the run that is done, in [0, 1]."""

    title: str
    subtitle: str
    state: str
    running: bool
    done: float
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    config: str
    refresh: int | None = None  # seconds after which the browser reads the page again


def write_page(run_dir: Path, page: Page) -> Path:
    """Write the page as the run's `report.html`, its origin at the foot, whole or not at all; its path."""
    report = run_dir / "report.html"
    try:
        origin = origin_of(run_dir)
    except (OSError, ValueError):  # a page of what was made elsewhere
        origin = {}
    with replacing(report) as temporary:
        temporary.write_text(render(page, origin), encoding="utf-8")
    return report


def render(page: Page, origin: Mapping[str, str] | None = None) -> str:
    """The page as HTML.

    Arguments:
        origin: command, commit and machine, which stand at its foot.
    """
    foot = "\n".join(f"{name}: {value}" for name, value in (origin or {}).items())
    configuration = f"{page.config.rstrip()}\n\n{foot}".rstrip()
    refresh = f'<meta http-equiv="refresh" content="{page.refresh}">\n' if page.refresh else ""
    tiles = "\n".join(
        f'<div class="tile"><b>{escape(tile.value)}</b><span>{escape(tile.name)}</span></div>'
        for tile in page.tiles
    )
    sections = "\n".join(_section(section) for section in page.sections)
    state_class = "state running" if page.running else "state"
    state = f'<span class="{state_class}">{escape(page.state)}</span>'
    # The policy makes the browser enforce what the page promises: nothing is fetched and nothing runs.
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<h1>{escape(page.title)}{state}</h1>
<p class="subtitle">{escape(page.subtitle)}</p>
<div class="bar"><div style="width: {100 * min(max(page.done, 0.0), 1.0):.1f}%"></div></div>
<div class="tiles">
{tiles}
</div>
{sections}
<section><details><summary>Configuration{" and origin" if origin else ""}</summary>
<pre>{escape(configuration)}</pre></details></section>
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    if section.media is None:
        body = f'<p class="missing">{escape(section.missing)}</p>'
    else:
        data = base64.b64encode(section.media).decode("ascii")
        if section.media.startswith(b"\x89PNG"):
            body = (
                f'<img style="width: {section.width}px" alt="{escape(section.title)}" '
                f'src="data:image/png;base64,{data}">'
            )
        else:
            body = (
                f'<video controls autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
            )
    heading = f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.caption)}</p>"
    return f"<section>\n{heading}\n{body}\n</section>"
