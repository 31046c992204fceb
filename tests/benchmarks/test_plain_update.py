"""The plain version that the update is measured against computes the same; results say what made them."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch

from gje_world.data import random_shift
from gje_world.networks import ConvEncoder


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name; they are scripts, which find each other beside themselves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module
    for name in ("measure", "update"):
        sys.modules.pop(name, None)


def test_the_plain_encoder_is_the_same_function(benchmark):
    torch.manual_seed(0)
    fast = ConvEncoder(9, dim=16, image_size=32, width=8)
    obs = torch.randint(0, 256, (2, 10, 9, 32, 32), dtype=torch.uint8)
    fast.centre_on(obs[0])
    plain = benchmark("update").PlainEncoder(9, dim=16, image_size=32, width=8)
    plain.load_state_dict(fast.state_dict())
    torch.testing.assert_close(plain(obs), fast(obs), rtol=1e-4, atol=1e-5)


def test_shifting_by_indexing_is_the_same_shift(benchmark):
    frames = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    shifted = []
    for shift in (random_shift, benchmark("update").shift_by_indexing):
        torch.manual_seed(0)
        shifted.append(shift(frames, 4))
    assert torch.equal(*shifted)


def test_results_carry_command_commit_and_machine(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/update.py", "--csv", "a file.csv"])
    path = tmp_path / "results.csv"
    benchmark("measure").write_csv(path, [{"ratio": "4.2"}, {"ratio": "4.4"}])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["ratio"] for row in rows] == ["4.2", "4.4"]
    assert all(row["command"] == "python benchmarks/update.py --csv 'a file.csv'" for row in rows)
    assert all(row["commit"] and "cores" in row["machine"] for row in rows)
