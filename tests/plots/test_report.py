"""The report is one page that needs nothing else, tells the run's key figures and believes no file."""

from __future__ import annotations

import base64
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gje_world.plots.film import write_film
from gje_world.plots.report import main, write_report
from gje_world.training.metrics import MetricsLog
from gje_world.training.origin import origin_of
from gje_world.training.run_directory import RunDirectory, RunDirectoryError

CONFIG: dict[str, Any] = {"task": "dmc/cartpole-swingup", "seed": 7, "steps": 100_000, "world": {"dim": 64}}
FILM = "films/step_000020000.mp4"


def _run(path: Path, config: dict[str, Any] = CONFIG, film: str = FILM, evaluate: bool = True) -> Path:
    with (
        RunDirectory.open(path, config) as run,
        MetricsLog(run.metrics, run.tensorboard, elapsed=3725) as log,
    ):
        log.log("episode", 19_000, {"episode/return": 512.4, "planner/uncertainty": 0.2})
        log.log(
            "train", 20_000, {"loss/total": 1.5, "embedding/std": 0.6, "speed/agent_steps_per_second": 5.87}
        )
        if evaluate:
            write_film(path / FILM, np.zeros((3, 16, 16, 3), np.uint8), uncertainty=[0.1, 0.2, 0.3])
            log.log(
                "eval",
                20_000,
                {
                    "eval/return_mean": 801.2,
                    "eval/return_std": 12.9,
                    "eval/film": film,
                    "calibration/nominal": [0.1, 0.5, 0.9],
                    "calibration/observed": [0.2, 0.6, 0.8],
                    "probe/r2/position[0]": 0.9,
                },
            )
    return path


class _Page(HTMLParser):
    """Collects the tags and every address the page would ask a browser to fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "poster", "data")]


def _text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_page_tells_the_key_figures_and_opens_offline(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    page = write_report(run).read_text(encoding="utf-8")
    for figure in (
        "dmc/cartpole-swingup stopped",
        "seed 7",
        "801 ± 13 evaluation return",
        "512 latest training return",
        "20,000 of 100,000 env frames",
        "5.9 agent steps/s",
        "world: dim: 64",
    ):
        assert figure in _text(page)
    # from 3,725 s on, and whatever writing the log took since
    assert re.search(r"1:02:\d\d elapsed", _text(page))
    parsed = _Page(page)
    assert "script" not in parsed.tags
    assert parsed.tags.count("img") == 5 and parsed.tags.count("video") == 1
    assert all(address.startswith("data:") for address in parsed.addresses)
    assert "://" not in re.sub(r"base64,[^\"]*", "", page)
    film = base64.b64encode((run / FILM).read_bytes()).decode()
    assert f"data:video/mp4;base64,{film}" in page
    names = ["calibration", "collapse_gauges", "learning_curve", "losses", "state_probe"]
    assert sorted(path.name for path in (run / "plots").iterdir()) == [f"{name}.png" for name in names]
    for name in names:
        assert base64.b64encode((run / "plots" / f"{name}.png").read_bytes()).decode() in page


def test_a_page_of_a_run_that_goes_on_reads_itself_again(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    assert 'http-equiv="refresh"' not in write_report(run).read_text()
    page = write_report(run, running=True).read_text()
    assert 'http-equiv="refresh"' in page and "dmc/cartpole-swingup running" in _text(page)


def test_a_run_at_its_last_step_is_finished(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {**CONFIG, "steps": 20_000})
    assert "dmc/cartpole-swingup finished" in _text(write_report(run).read_text())


def test_a_run_without_evaluation_or_any_metrics_has_a_page(tmp_path: Path) -> None:
    page = write_report(_run(tmp_path / "young", evaluate=False)).read_text()
    assert "– evaluation return" in _text(page) and "512 latest training return" in _text(page)
    assert "The first evaluation makes the first film." in page
    assert _Page(page).tags.count("img") == 3

    RunDirectory.open(tmp_path / "new", CONFIG).close()
    page = write_report(tmp_path / "new", running=True).read_text()
    assert page.count("Nothing measured yet.") == 5 and "0 of 100,000 env frames" in _text(page)


def test_a_row_being_written_does_not_stop_the_report(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99')
    assert "20,000 of 100,000 env frames" in _text(write_report(run).read_text())


def test_the_page_tells_how_to_get_the_run_again(tmp_path: Path) -> None:
    origin = origin_of(_run(tmp_path / "run"))
    page = html.unescape(write_report(tmp_path / "run").read_text())
    assert all(f"{name}: {origin[name]}" in page for name in ("command", "commit", "machine"))
    (tmp_path / "run" / "origin.json").unlink()
    assert "commit: " not in write_report(tmp_path / "run").read_text()


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    page = write_report(
        _run(tmp_path / "run", {**CONFIG, "task": evil, "seed": evil, "note": evil})
    ).read_text()
    assert "script" not in _Page(page).tags
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") >= 3


@pytest.mark.parametrize("film", ["{outside}", "../secret", "films/../config.yaml", "films/none.mp4"])
def test_no_file_but_a_film_of_the_run_is_put_into_the_page(tmp_path: Path, film: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    run = _run(tmp_path / "run", film=film.format(outside=secret))
    page = write_report(run).read_text()
    assert "The film is not in films/." in page
    assert base64.b64encode(b"a secret").decode() not in page and "video" not in _Page(page).tags


def test_the_command_rebuilds_the_report_and_tells_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run")
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "is no run directory" in error and error.count("\n") == 1
    with pytest.raises(RunDirectoryError):
        write_report(tmp_path)
