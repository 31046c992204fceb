"""The ambiguity suite against its own truth, and `gje-probe ambiguity` on small fits."""

import csv
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Generator

from gje_world import probe
from gje_world.beliefs import Belief, DiagonalGaussian
from gje_world.evaluation.ambiguity import BELIEFS, fit, fits, measure, portrait
from gje_world.evaluation.ambiguous_tasks import TASKS, Choice, Inverse

INVERSE = [name for name, task in TASKS.items() if isinstance(task, Inverse)]
MULTIMODAL = [name for name, task in TASKS.items() if isinstance(task, Inverse | Choice)]
PLACES = torch.tensor([[-0.8], [0.05], [0.6]])


def seeded(seed=0):
    return Generator().manual_seed(seed)


class Oracle(Belief):
    """The truth of a task as a belief."""

    def __init__(self, task, x):
        self.task, self.x = task, x
        super().__init__(x.shape[:-1], task.dim)

    def log_prob(self, value):
        return self.task.log_prob(value, self.x)

    def rsample(self, sample_shape):
        return self.task.draw(self.x, *sample_shape, torch.default_generator)


# ---- the truth ----


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.dim <= 2])
def test_the_true_density_integrates_to_one(name):
    task = TASKS[name]
    reach, points = (30, 6001) if name == "heavy_tails" else (4, 801 if task.dim == 1 else 401)
    side = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[side] * task.dim).reshape(-1, 1, task.dim)
    for x in PLACES:
        total = float(task.log_prob(grid, x[None]).exp().sum()) * (2 * reach / (points - 1)) ** task.dim
        assert total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["two_modes", "eight_modes"])
def test_in_32_dimensions_all_but_the_plane_is_noise(name):
    plane, space = TASKS[name], TASKS[f"{name}_32"]
    x, y = space.sample(50, seeded())
    across = (y.double().square().sum(-1) - space.plane(y.double()).square().sum(-1)) / space.noise**2
    noise = -0.5 * across - 30 * (math.log(space.noise) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(
        space.log_prob(y, x), plane.log_prob(space.plane(y.double()), x) + noise, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", INVERSE)
def test_the_density_of_an_inverse_is_the_integral_over_its_curve(name):
    task = TASKS[name]

    def joint(u, x, y):
        width, height = task.curve(torch.tensor(u, dtype=torch.float64))
        return math.exp(-0.5 * ((x - width) ** 2 + (y - height) ** 2) / task.noise**2)

    def alone(u, x):
        return math.exp(-0.5 * (x - task.curve(torch.tensor(u, dtype=torch.float64))[0]) ** 2 / task.noise**2)

    x, y = task.sample(4, seeded())
    pieces = np.linspace(0, 1, 41)
    for x_one, y_one in zip(x, y, strict=True):
        both, one = (
            sum(scipy.integrate.quad(f, a, b, args)[0] for a, b in pairwise(pieces))
            for f, args in ((joint, (float(x_one), float(y_one))), (alone, (float(x_one),)))
        )
        expected = math.log(both / one) - math.log(task.noise * math.sqrt(2 * math.pi))
        assert float(task.log_prob(y_one[None], x_one[None])) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", TASKS)
def test_draws_come_from_the_true_distribution(name):
    task = TASKS[name]
    torch.manual_seed(0)
    ours, theirs = task.draw(PLACES, 1500, seeded()), task.truth(PLACES).sample((1500,))
    for a, b in zip(task.plane(ours).flatten(1).T, task.plane(theirs).flatten(1).T, strict=True):
        assert scipy.stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize("name", INVERSE)
def test_pairs_come_from_the_true_distribution(name):
    task = TASKS[name]
    x, y = task.sample(2000, seeded())
    truth = task.truth(x)
    weights, places = truth.mixture_distribution.probs, truth.component_distribution.base_dist
    below = (weights * places.cdf(y.double().unsqueeze(1)).squeeze(-1)).sum(-1)  # uniform, if y is as told
    assert scipy.stats.kstest(below, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", MULTIMODAL)
def test_modes_are_peaks_of_the_true_density(name):
    task = TASKS[name]
    x, _ = task.sample(40, seeded())
    modes = task.modes(x)
    there = modes.isfinite().all(-1)
    assert there.any(-1).all() and there.sum(-1).max() > 1
    nearby = 0.5 * task.noise * torch.randn(20, *modes.shape, generator=seeded())
    at, near = (task.log_prob(value.movedim(-2, 0), x) for value in (modes, (modes + nearby).mean(0)))
    assert (at.mT[there] >= near.mT[there] - 1e-3).all()


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_as_a_belief_lacks_nothing(name):
    task = TASKS[name]
    found = measure(task, lambda x: Oracle(task, x), held_out=500)
    assert found["nll_gap"] == pytest.approx(0, abs=1e-12)
    assert found["mode_recall"] == (1.0 if name in MULTIMODAL else None)
    assert found["energy_excess"] == pytest.approx(0, abs=0.01)
    for level in (0.5, 0.9, 0.95):
        bound = 3.5 * math.sqrt(level * (1 - level) / 500)
        assert found[f"coverage_error_{100 * level:.0f}"] < bound


# ---- what must fail ----


def best_gaussian(task, std=None):
    """Predicts the true mean, and the true standard deviations or the one given."""

    def predict(x):
        truth = task.truth(x)
        spread = truth.variance.sqrt() if std is None else torch.full_like(truth.mean, std)
        return DiagonalGaussian(truth.mean.float(), spread.float())

    return predict


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_best_squared_error_fails_where_there_are_several_modes(name):
    found = measure(TASKS[name], best_gaussian(TASKS[name], std=1.0), 500)
    assert found["nll_gap"] > 0.5
    assert found["mode_recall"] < 0.5


@pytest.mark.parametrize("name", MULTIMODAL)
def test_no_diagonal_gaussian_will_do_where_there_are_several_modes(name):
    found = measure(TASKS[name], best_gaussian(TASKS[name]), 500)
    assert found["nll_gap"] > 0.02
    assert found["mode_recall"] < 1


def test_no_diagonal_gaussian_holds_the_correlated_noise():
    assert measure(TASKS["correlated"], best_gaussian(TASKS["correlated"]), 2000)["nll_gap"] > 0.3


def test_a_gaussian_holds_the_noise_that_only_varies():
    task = TASKS["heteroscedastic"]
    found = measure(task, best_gaussian(task), 2000)
    assert found["nll_gap"] == pytest.approx(0, abs=1e-5)


# ---- fits ----


def test_a_fit_learns():
    task = TASKS["heteroscedastic"]
    settings = {"seed": 1, "batch_size": 256, "hidden": 32}
    before, _ = fit(task, "diagonal", updates=1, **settings)
    after, seconds = fit(task, "diagonal", updates=400, **settings)
    gaps = [measure(task, network, 2000)["nll_gap"] for network in (before, after)]
    assert gaps[0] > 1 and gaps[1] < 0.3
    assert seconds > 0


def test_the_same_seed_gives_the_same_fit():
    networks = [
        fit(TASKS["sine"], "mixture", seed=3, updates=5, batch_size=32, hidden=8)[0] for _ in range(2)
    ]
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)


def test_a_belief_over_directions_does_not_fit_a_number():
    assert not fits("polar", TASKS["sine"])
    assert fits("polar", TASKS["two_modes"])
    assert all(fits(belief, task) for belief in BELIEFS if belief != "polar" for task in TASKS.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_portrait_is_points_in_the_plane(name):
    task = TASKS[name]
    points = portrait(task, lambda x, count: task.draw(x, count, seeded()))
    assert points.ndim == 2 and points.shape[1] == 2 and points.isfinite().all()


# ---- the command ----

SMALL = ["updates=3", "batch_size=16", "hidden=8", "held_out=256", "threads=1"]


def command(monkeypatch, *options):
    """Runs `gje-probe` with these options; its exit status."""
    monkeypatch.setattr(sys, "argv", ["gje-probe", *options])
    with pytest.raises(SystemExit) as ended:
        probe.main()
    return ended.value.code


def table(run_dir):
    with (run_dir / "ambiguity.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_table_and_a_report(monkeypatch, tmp_path):
    options = [*SMALL, "tasks=[two_modes,heavy_tails]", "beliefs=[diagonal,polar]", "seeds=2"]
    assert command(monkeypatch, "ambiguity", f"run_dir={tmp_path}", *options) == 0
    rows = table(tmp_path)
    named = [(row["task"], row["belief"], row["seed"]) for row in rows]
    pairs = [("two_modes", "diagonal"), ("two_modes", "polar"), ("heavy_tails", "diagonal")]
    assert named == [(*pair, seed) for pair in pairs for seed in "12"]
    for row in rows:
        assert math.isfinite(float(row["nll_gap"])) and float(row["seconds_per_1000_updates"]) > 0
        assert (row["mode_recall"] == "") == (row["task"] == "heavy_tails")
        assert row["command"].startswith("gje-probe ambiguity ") and row["commit"] and row["machine"]
    assert "Ambiguity suite" in (tmp_path / "report.html").read_text()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"gallery.png", "scoreboard.png"}


def test_a_suite_that_was_stopped_goes_on_where_it_stopped(monkeypatch, tmp_path):
    options = ["ambiguity", f"run_dir={tmp_path}", *SMALL, "tasks=[sine]", "beliefs=[diagonal,mixture]"]
    done = []

    def fit_once(task, belief, **settings):
        if done:
            raise KeyboardInterrupt
        done.append(belief)
        return fit(task, belief, **settings)

    monkeypatch.setattr("gje_world.probing.ambiguity.fit", fit_once)
    assert command(monkeypatch, *options) == 130
    first = table(tmp_path)
    assert [row["belief"] for row in first] == ["diagonal"]
    (tmp_path / "portraits" / "sine-diagonal-1.npy").unlink()  # a table goes on without them, too

    monkeypatch.setattr("gje_world.probing.ambiguity.fit", fit)
    assert command(monkeypatch, *options) == 0
    assert table(tmp_path)[0] == first[0]
    assert [row["belief"] for row in table(tmp_path)] == ["diagonal", "mixture"]


def test_fits_with_other_settings_do_not_share_a_table(monkeypatch, capsys, tmp_path):
    options = ["ambiguity", f"run_dir={tmp_path}", *SMALL, "tasks=[sine]", "beliefs=[diagonal]"]
    assert command(monkeypatch, *options) == 0
    assert command(monkeypatch, *options, "updates=4") == 2
    assert "updates: 3 on disk, 4 asked" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, words",
    [
        ("tasks=[sin]", ["tasks=[sin]", "sine", "spiral"]),
        ("tasks=sine", ["tasks=sine", "must be a list", "tasks=[sine]"]),
        ("beliefs=[cauchy]", ["beliefs=[cauchy]", "mixture"]),
        ("beliefs=[]", ["beliefs=[]", "null"]),
        ("seeds=0", ["seeds=0", "at least 1"]),
        ("held_out=10", ["held_out=10", "at least 256"]),
        ("lr=0", ["lr=0.0", "above 0"]),
        ("device=tpu", ["device='tpu'", "cpu"]),
        ("update=3", ["'update'", "updates"]),
    ],
)
def test_an_option_that_cannot_work_is_refused_in_one_line(monkeypatch, capsys, tmp_path, option, words):
    assert command(monkeypatch, "ambiguity", f"run_dir={tmp_path / 'run'}", option) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and [word for word in words if word not in line] == []
    assert not (tmp_path / "run").exists()


def test_a_belief_that_fits_no_task_asked_is_refused_and_one_that_fits_some_is_left_out_of_others(
    monkeypatch, capsys, caplog, tmp_path
):
    words = ["ambiguity", f"run_dir={tmp_path / 'run'}", *SMALL]
    assert command(monkeypatch, *words, "tasks=[sine,arcs]", "beliefs=[diagonal,polar]") == 2
    assert "beliefs=polar fits none of tasks=sine, arcs; it fits two_modes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with caplog.at_level("INFO"):
        assert command(monkeypatch, *words, "tasks=[sine,two_modes]", "beliefs=[polar]") == 0
    assert "polar on sine" in caplog.text and "two_modes" not in caplog.text
    assert [row["task"] for row in table(tmp_path / "run")] == ["two_modes"]


@pytest.mark.parametrize("options", [[], ["embiguity"]])
def test_an_unknown_subcommand_is_refused_in_one_line(monkeypatch, capsys, options):
    assert command(monkeypatch, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "gje-probe ambiguity" in line


def test_help_tells_tasks_beliefs_and_options(monkeypatch, capsys):
    assert command(monkeypatch, "ambiguity", "--help") == 0
    text = capsys.readouterr().out
    assert [word for word in (*TASKS, *BELIEFS, "updates=5000") if word not in text] == []
