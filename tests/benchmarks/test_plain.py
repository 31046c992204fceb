"""The plain versions that speed is measured against compute the same; results say what made them."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.heads import Critics
from gje_world.data import shift
from gje_world.networks import ConvEncoder


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name; they are scripts, which find each other beside themselves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module
    for name in ("measure", "update", "decision", "replay"):
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
    images = torch.randint(0, 256, (4, 8, 3, 16, 16), dtype=torch.uint8)
    offsets = torch.randint(-4, 5, (4, 8, 2))
    assert torch.equal(benchmark("update").shift_by_indexing(images, offsets), shift(images, offsets))


def test_results_carry_command_commit_and_machine(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/update.py", "--csv", "a file.csv"])
    path = tmp_path / "results.csv"
    benchmark("measure").write_csv(path, [{"ratio": "4.2"}, {"ratio": "4.4"}])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["ratio"] for row in rows] == ["4.2", "4.4"]
    assert all(row["command"] == "python benchmarks/update.py --csv 'a file.csv'" for row in rows)
    assert all(row["commit"] and "cores" in row["machine"] for row in rows)


def test_rows_of_an_older_table_need_not_have_every_column_nor_come_from_this_commit(benchmark, tmp_path):
    path = tmp_path / "runs" / "results.csv"
    benchmark("measure").write_csv(path, [{"old": "1", "commit": "abc"}, {"old": "2", "new": "3"}])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["old"], row["new"]) for row in rows] == [("1", ""), ("2", "3")]
    assert rows[0]["commit"] == "abc" != rows[1]["commit"] and rows[0]["machine"]


def test_critics_one_by_one_are_those_of_the_ensemble(benchmark):
    torch.manual_seed(0)
    critics = Critics(3, 6, 2, 16, 11)
    for parameter in critics.parameters():
        torch.nn.init.normal_(parameter)
    z, action = torch.randn(4, 5, 6), torch.randn(4, 5, 2)
    found = benchmark("decision").critics_one_by_one(critics, z, action, [2, 0])
    torch.testing.assert_close(found, critics(z, action, [2, 0]), rtol=1e-4, atol=1e-4)


def test_sequences_sampled_one_by_one_are_those_of_an_episode(benchmark, tmp_path):
    module = benchmark("replay")
    replay = module.filled(tmp_path, 500)
    plain = module.sample_plainly(replay, np.random.default_rng(0), 40, 3)
    fast = replay.sample(np.random.default_rng(0), 40, 3)
    known = {reward: row for row, reward in enumerate(replay.maps["reward"].tolist())}
    for batch in (plain, fast):
        for b in range(40):
            last = known[float(batch.reward[-1, b])]
            first = int(replay.maps["first"][last])
            rows = np.maximum(np.arange(last - 5, last + 1), first)
            assert np.array_equal(batch.frames[b].numpy(), replay.maps["frame"][rows])
            assert batch.action[:, b].tolist() == replay.maps["action"][last - 2 : last + 1].tolist()
