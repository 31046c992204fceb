"""The benchmark goes on where it stopped; what is asked wrongly is named; simulated tasks are worlds."""

import csv
import dataclasses
import importlib
import sys

import numpy as np
import pytest
import torch

from gje_world.data.simulated import Simulated
from gje_world.data.worlds import make_world
from gje_world.evaluation.futures import HORIZON, ask, score_oracle
from gje_world.options import ConfigError
from gje_world.training.run_directory import RunDirectoryError
from gje_world.video import benchmark as bench_module
from gje_world.video.benchmark import Bench, BenchmarkConfig, benchmark
from gje_world.video.futures_models import Recipe
from gje_world.video.own_predictors import code_of


@pytest.fixture
def quick(monkeypatch):
    for name, value in {
        "evaluation.futures.PROBE_EPISODES": 50,
        "evaluation.futures.DRAWS": 20,
        "evaluation.futures.MODE_DRAWS": 20,
        "evaluation.futures.ORACLE_CONTEXTS": 10,
        "evaluation.reading.UPDATES": 5,
        "video.futures_models.PART": 40,
    }.items():
        monkeypatch.setattr(f"gje_world.{name}", value)


def table(folder, name="table.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(rows):
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_a_benchmark_that_was_stopped_goes_on_to_the_same_table(quick, tmp_path):
    config = BenchmarkConfig(
        run_dir=str(tmp_path / "run"),
        worlds=["junction_2"],
        predictors=["oracle", "mixture", "squared_error", "nearest_neighbour"],
        contexts=20,
        episodes=40,
        encoder_updates=2,
        updates=3,
    )
    assert benchmark(config) == 0
    whole = table(tmp_path / "run")
    assert [row["predictor"] for row in whole] == config.predictors
    assert (tmp_path / "run" / "table.md").read_text().count("\n") == 2 + len(whole)
    report = (tmp_path / "run" / "report.html").read_text()
    for title in ("Sampled futures", "Coverage at each step ahead", "Ranks at each step ahead"):
        assert title in report
    steps = table(tmp_path / "run", "steps.csv")
    assert [(row["predictor"], row["step"]) for row in steps] == [
        (predictor, str(step)) for predictor in config.predictors for step in range(1, HORIZON + 1)
    ]
    for row in steps:
        assert sum(float(row[f"pit_{place}"]) for place in range(10)) == pytest.approx(1, abs=1e-4)
    for row in whole:
        last = next(s for s in steps if s["predictor"] == row["predictor"] and s["step"] == str(HORIZON))
        for name in ("recall", "energy_ratio", "coverage_error_90"):
            assert last[name] == row[f"{name}_{HORIZON}" if name != "recall" else name]
        assert (row["training_cpu_seconds"] == "") == (row["predictor"] == "oracle")
    lines = (tmp_path / "run" / "table.csv").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "table.csv").write_text("".join(lines[:3]))  # killed after the second row
    assert benchmark(config) == 0
    assert untimed(table(tmp_path / "run")) == untimed(whole)
    assert table(tmp_path / "run", "steps.csv") == steps


def test_what_models_of_a_world_have_in_common_is_made_once(quick, tmp_path, monkeypatch):
    world, made = make_world("junction_2", 32), []
    generate = world.generate

    def counted(generator, count, length):
        made.append(generator.bit_generator.seed_seq.entropy)
        return generate(generator, count, length)

    monkeypatch.setattr(world, "generate", counted)
    config = BenchmarkConfig(episodes=100, encoder_updates=1, updates=1)
    bench = Bench(config, tmp_path)
    for belief in ("mixture", "squared_error"):
        _, seconds = bench.predictor("junction_2", world, belief, 1, lambda: None)
        assert seconds > bench.seen("junction_2", world, None, 1, None).seconds > 0
    # seed and part: a hundred episodes in parts of forty, and those that beliefs are calibrated on
    assert made == [[1, 0], [1, 1], [1, 2], [1, 3]]


def test_few_episodes_are_all_that_anything_learns_from(quick, tmp_path, monkeypatch):
    world, learnt = make_world("junction_2", 32), []
    for name in ("learn_encoder", "learn_beliefs", "NearestNeighbours"):
        whole = getattr(bench_module, name)

        def spied(*arguments, whole=whole, name=name, **options):
            learnt.append(next(len(part) for part in arguments if isinstance(part, torch.Tensor)))
            return whole(*arguments, **options)

        monkeypatch.setattr(bench_module, name, spied)
    bench = Bench(BenchmarkConfig(episodes=30, encoder_updates=1, updates=1), tmp_path)
    for predictor in ("mixture", "nearest_neighbour"):
        bench.predictor("junction_2", world, predictor, 1, lambda: None)
    assert learnt == [30, 30, 30]


def test_a_benchmark_of_another_recipe_is_not_gone_on_with(quick, tmp_path, monkeypatch):
    config = BenchmarkConfig(
        run_dir=str(tmp_path / "run"), worlds=["coin", "coin"], predictors=["oracle"], contexts=5
    )
    assert benchmark(config) == 0
    assert len(table(tmp_path / "run")) == 1
    other = dataclasses.make_dataclass("Recipe", [("hidden", int, 512)], bases=(Recipe,), frozen=True)
    monkeypatch.setattr(bench_module, "Recipe", other)
    with pytest.raises(RunDirectoryError, match="began with other recipe"):
        benchmark(config)


def test_a_simulated_world_is_made_once(quick, tmp_path, monkeypatch):
    made = []

    def make(name, size):
        made.append(name)
        return Simulated(Walk(), size, ("position",))

    monkeypatch.setattr("gje_world.video.benchmark.simulated_world", make)
    config = BenchmarkConfig(
        run_dir=str(tmp_path / "run"), worlds=["cartpole"], predictors=["oracle"], contexts=5
    )
    assert benchmark(config) == 0
    assert made == ["cartpole"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"worlds": ["maze"]}, r"worlds=\[maze\] must be among bounce,"),
        ({"predictors": []}, r"predictors=\[\] must name some of oracle,"),
        ({"predictors": ["mixtur"]}, r"predictors=\[mixtur\] must be among oracle,"),
        (
            {"predictors": ["no_such_module:make"]},
            r"\[no_such_module:make\] must be module:function to import",
        ),
        ({"predictors": ["math:no_such"]}, r"\[math:no_such\] must be module:function to import"),
        ({"predictors": ["math:pi"]}, r"\[math:pi\] must be a function of a world and a seed"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"image_size": 20}, "image_size=20: size must be a multiple of 16"),
    ],
)
def test_what_cannot_work_is_named_before_any_work(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        benchmark(BenchmarkConfig(run_dir=str(tmp_path / "run"), **options))
    assert not (tmp_path / "run").exists()


MINE = '''
import torch

class Still:
    """Nothing will change."""

    def embed(self, frames):
        return frames.float().mean((-2, -1))

    def sample(self, context, horizon, count):
        return self.embed(context[:, -1:]).movedim(1, 0).expand(count, horizon, -1, -1)

def make(world, seed):
    return Still()
'''


def test_a_predictor_of_ones_own_stands_in_the_table_by_one_function(quick, tmp_path, monkeypatch):
    (tmp_path / "own_predictor.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    predictors = ["own_predictor:make", "oracle"]
    config = BenchmarkConfig(run_dir="run", worlds=["junction_2"], predictors=predictors, contexts=20)
    assert benchmark(config) == 0
    rows = {row["predictor"]: row for row in table(tmp_path / "run")}
    assert rows.keys() == set(predictors)
    assert float(rows["own_predictor:make"]["energy_ratio_true_5"]) > 1.2  # a sprite that stands still
    written = (tmp_path / "run" / "table.md").read_text()
    assert written.index("oracle") < written.index("own_predictor:make")  # others' stand last
    mended = MINE.replace(
        "mean((-2, -1))", "mean((-2, -1)) + 1e3 * torch.rand(len(frames), frames.shape[1], 3)"
    )
    (tmp_path / "own_predictor.py").write_text("import torch\n" + mended)
    sys.modules.pop("own_predictor")  # another process
    importlib.invalidate_caches()
    for _ in range(2):
        assert benchmark(config) == 0
        anew = {row["predictor"]: row for row in table(tmp_path / "run")}
        assert anew["oracle"] == rows["oracle"]
        before, after = (float(of["own_predictor:make"]["probe_rmse"]) for of in (rows, anew))
        assert after > before


def test_a_file_that_changes_while_a_row_is_made_is_measured_anew(quick, tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    told, ask_before = [], bench_module.ask

    def change(*arguments, **options):
        told.append(code_of("changing:make"))
        (tmp_path / "changing.py").write_text(MINE + "\n")
        return ask_before(*arguments, **options)

    monkeypatch.setattr(bench_module, "ask", change)
    config = BenchmarkConfig(run_dir="run", worlds=["junction_2"], predictors=["changing:make"], contexts=20)
    for _ in range(2):
        assert benchmark(config) == 0
        assert table(tmp_path / "run")[0]["made_by"] == told[-1]
    assert len(told) == 2 and told[0] != told[1]  # the row of the old code did not hold


class Walk:
    """A point that goes where it is pushed."""

    action_dim = 1
    observation_names = ("position",)

    def reset(self, seed):
        self.place = np.random.default_rng(seed).uniform(-1, 1, 1)

    def state(self):
        return self.place

    def go_to(self, state):
        self.place = state

    def step(self, action):
        self.place = self.place + action

    def observation(self):
        return self.place.astype(np.float32)

    def frame(self):
        return np.full((3, 32, 32), 127 + np.clip(20 * self.place, -100, 100), np.uint8)


def test_a_simulated_task_is_a_world_whose_futures_can_be_drawn():
    world = Simulated(Walk(), 32, ("position",))
    frames, states = world.generate(np.random.default_rng(0), 5, 8)
    assert frames.shape == (5, 8, 3, 32, 32)
    step = np.diff(world.readable(states), axis=1)
    assert (abs(step) <= 1).all() and step.std() > 0.3
    np.testing.assert_array_equal(world.draw(states, np.random.default_rng(0)), frames)
    drawn = world.sample_futures(states[:, 3], HORIZON, 2000, np.random.default_rng(1))
    spread = (world.readable(drawn) - world.readable(states[:, 3])).std(0)[:, :, 0]
    np.testing.assert_allclose(
        spread, np.sqrt(np.arange(1, HORIZON + 1) / 3)[:, None].repeat(5, 1), rtol=0.08
    )
    row = score_oracle(world, ask(world, contexts=200)).row
    assert row["coverage_error_90_5"] < 0.08 and row["recall"] is None
