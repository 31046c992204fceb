"""Disk space is asked for before work begins, and files are replaced whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gje_world.training.atomic import replacing
from gje_world.training.disk import DiskSpaceError, format_bytes, require_disk


def test_too_little_space_is_told_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    require_disk(tmp_path / "not" / "yet", 1_500_000, "replay")
    with pytest.raises(
        DiskSpaceError, match=r"^replay needs 1\.6 GB in .*/yet, but only 1\.5 MB are free there$"
    ):
        require_disk(tmp_path / "not" / "yet", 1_600_000_000, "replay")


@pytest.mark.parametrize("size, text", [(0, "0 B"), (999, "999 B"), (12_300, "12.3 kB"), (3e13, "30.0 TB")])
def test_bytes_are_written_in_decimal_units(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
