"""The offline loop goes on where it stopped, bit for bit, and learns the same on one rank or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gje_world.options import ConfigError
from gje_world.training.devices import Precision
from gje_world.training.engine import Engine, EngineConfig, Learner
from gje_world.training.means import NonFiniteError
from gje_world.training.metrics import read_metrics
from gje_world.training.ranks import make_fabric, open_run
from gje_world.training.run_directory import RunDirectoryError
from gje_world.training.signals import Stop


class Noisy(Learner):
    """Fits a line through noise it draws itself, so that a resumed run must draw the same."""

    def __init__(self, poison: int | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("average", torch.zeros(()))
        self.poison = poison

    def forward(self, batch):
        x, y = batch
        noise = 0.1 * torch.randn(3)
        error = (self.layers(x + noise) - y).square().mean()
        return error, {"loss/error": error.detach()}

    def after_update(self, update):
        self.average.lerp_(self.layers[0].weight.detach().mean(), 0.1)
        if update == self.poison:
            nn.init.constant_(self.layers[0].weight, torch.nan)


def batches(seed: int, rank: int = 0, ranks: int = 1, size: int = 8):
    def start_at(start):
        update = start
        while True:
            generator = torch.Generator().manual_seed(1000 * seed + update)
            x = torch.randn(size, 3, generator=generator)
            yield x.chunk(ranks)[rank], x.chunk(ranks)[rank].sum(-1, keepdim=True)
            update += 1

    return start_at


def run(path: Path, learner: Learner, stop_at: int | None = None, fabric=None, **options) -> Engine:
    config = EngineConfig(
        **{"updates": 60, "log_every": 5, "checkpoint_every": 10, "evaluate_every": 20, "device": "cpu"}
        | options
    )
    fabric = fabric or make_fabric("cpu", 1, 1, Precision.float32)
    with open_run(fabric, path, {"kind": "noisy"}) as directory:
        stop = Stop()

        def evaluate(update, asked):
            if update == stop_at:
                stop.signal = "SIGTERM"
            asked.check()
            return {
                "eval/draw": float(torch.rand(())),
                "eval/weight": learner.layers[0].weight.detach().sum(),
            }

        engine = Engine(
            learner,
            batches(3, fabric.global_rank, fabric.world_size),
            config=config,
            fabric=fabric,
            run=directory,
            optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-2),
            schedule=lambda update: 1 - update / 60,
            seed=3,
            evaluate=evaluate,
            report=lambda running: None,
            samples=(8, "lines"),
        )
        engine.train(stop)
        return engine


def rows(path: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name != "time" and not name.startswith("speed/")}
        for row in read_metrics(path / "metrics.jsonl")
    ]


def test_a_run_stopped_in_its_evaluation_goes_on_as_if_it_had_not(tmp_path):
    whole = run(tmp_path / "whole", Noisy())
    stopped = run(tmp_path / "parts", Noisy(), stop_at=40)
    assert not stopped.finished and stopped.update == 40 and stopped.evaluation_owed
    rest = run(tmp_path / "parts", Noisy())
    assert rest.finished and rest.resumed_from is not None
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, rest.learner.state_dict()[name]), name


def test_how_often_it_is_evaluated_does_not_change_a_run(tmp_path):
    often = run(tmp_path / "often", Noisy(), evaluate_every=5)
    once = run(tmp_path / "once", Noisy(), evaluate_every=60)
    assert torch.equal(often.learner.layers[0].weight, once.learner.layers[0].weight)


def test_it_learns(tmp_path):
    run(tmp_path, Noisy())
    losses = [row["loss/total"] for row in rows(tmp_path) if row["kind"] == "train"]
    assert len(losses) == 12 and losses[-1] < 0.2 * losses[0]


class Still(Noisy):
    """The same without noise."""

    def forward(self, batch):
        x, y = batch
        error = (self.layers(x) - y).square().mean()
        return error, {}


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    def halves(start):
        for k, (x, y) in enumerate(batches(3)(start // 2)):
            for part in range(2):
                if 2 * (start // 2 + k) + part >= start:
                    yield x.chunk(2)[part], y.chunk(2)[part]

    whole = run(tmp_path / "whole", Still(), updates=10)
    config = EngineConfig(updates=10, accumulate=2, device="cpu")
    fabric = make_fabric("cpu", 1, 1, Precision.float32)
    with open_run(fabric, tmp_path / "halves", {}) as directory:
        parts = Engine(
            Still(), halves, config=config, fabric=fabric, run=directory, seed=3, samples=(4, "lines"),
            optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-2),
            schedule=lambda update: 1 - update / 60,
            evaluate=lambda update, stop: {}, report=lambda running: None,
        )  # fmt: skip
        parts.train(Stop())
    torch.testing.assert_close(
        parts.learner.layers[0].weight, whole.learner.layers[0].weight, rtol=0, atol=1e-5
    )


class Halting(Still):
    """Its first layer stays as it is from update 10 on."""

    def parameter_groups(self):
        first, _, last = self.layers
        return [{"params": list(first.parameters()), "until": 10}, {"params": list(last.parameters())}]


def test_a_group_of_parameters_can_come_to_rest_for_good(tmp_path):
    short, long = (run(tmp_path / str(n), Halting(), updates=n).learner.layers for n in (10, 12))
    assert torch.equal(short[0].weight, long[0].weight)
    assert not torch.equal(short[2].weight, long[2].weight)
    assert not torch.equal(Halting().layers[0].weight, long[0].weight)


def test_what_is_not_finite_stops_the_run_at_the_last_good_state(tmp_path):
    with pytest.raises(NonFiniteError, match=r"loss/.*not finite near step 25; .*step_000000020"):
        run(tmp_path, Noisy(poison=21))
    assert all(path.name < "step_000000021" for path in (tmp_path / "checkpoints").iterdir())


def test_weights_that_the_last_step_broke_reach_no_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"layers.0.weight not finite near step 20; .*step_000000010"):
        run(tmp_path, Noisy(poison=19))
    assert run(tmp_path, Noisy()).finished


@pytest.mark.parametrize(
    "others, message",
    [
        (
            ["", "step_000000000002-0.pt"],
            "must be one folder that all nodes share; the ranks found .* none",
        ),
        (["all 3 checkpoints are damaged", ""], "all 3 checkpoints are damaged"),
    ],
)
def test_ranks_that_would_go_on_from_different_states_do_not_begin(tmp_path, monkeypatch, others, message):
    monkeypatch.setattr("gje_world.training.engine.from_all_ranks", lambda found: [found, others])
    with pytest.raises(RunDirectoryError, match=message):
        run(tmp_path / "run", Noisy())


def test_another_model_is_refused(tmp_path):
    run(tmp_path, Noisy(), updates=10)
    other = Noisy()
    other.layers[0] = nn.Linear(3, 9)
    with pytest.raises(RunDirectoryError, match="not of this model"):
        run(tmp_path, other)


@pytest.mark.parametrize(("name", "value"), [("updates", 0), ("accumulate", -1), ("grad_clip", 0.0)])
def test_options_that_cannot_work_are_named(name, value):
    with pytest.raises(ConfigError, match=f"engine.{name}={value}"):
        EngineConfig(**{name: value}).check()


def test_two_ranks_learn_what_one_learns_from_the_whole_batch(tmp_path):
    path = tmp_path / "two"
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import torch
from test_engine import Still, run
from gje_world.training.devices import Precision
from gje_world.training.ranks import make_fabric
torch.set_num_threads(1)
fabric = make_fabric("cpu", 2, 1, Precision.float32)
fabric.launch()
run(Path({str(path)!r}), Still(), fabric=fabric, stop_at=20)
run(Path({str(path)!r}), Still(), fabric=fabric)
"""
    file = tmp_path / "two.py"
    file.write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(file)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run(tmp_path / "one", Still())
    one, two = rows(tmp_path / "one"), rows(path)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert one[-1]["eval/weight"] == pytest.approx(two[-1]["eval/weight"], abs=1e-4)
    assert json.dumps(one[0]).count("loss/total") == 1
    assert one[0]["loss/total"] == pytest.approx(two[0]["loss/total"], rel=1e-5)
