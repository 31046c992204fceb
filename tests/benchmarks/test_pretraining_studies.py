"""The studies of pretraining end in whole tables from small data, and compare like with like."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

from gje_world.command import configuration
from gje_world.evaluation.classification import fit_linear_probe
from gje_world.networks import AdaptedEncoder, ConvEncoder, make_encoder
from gje_world.predictor import ViewPredictor
from gje_world.pretrain import PretrainConfig, check
from gje_world.pretrained import Pretrained, load_encoder
from gje_world.training.tables import read_rows

NAMES = (
    "cifar_table",
    "cifar_verdict",
    "pretrained_control",
    "pretrain_throughput",
    "torchvision_anyhow",
    "measure",
)
CLASSES = ("cat", "deer", "dog", "truck")


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name; they are scripts, which find each other beside themselves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Flat images in noise, a brightness for each class."""
    path = tmp_path_factory.mktemp("data") / "pictures.zip"
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 20), ("test", 10)):
            for index in range(count * len(CLASSES)):
                label = index % len(CLASSES)
                pixels = generator.normal(60 + 45 * label, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                archive.writestr(f"{part}/{CLASSES[label]}/{index}.png", file.getvalue())
    return path


@pytest.fixture
def table(benchmark, monkeypatch):
    """The table's module, with untrained encoders in place of minutes of pretraining; what was pretrained."""
    module = benchmark("cifar_table")
    asked: list[tuple[str, int]] = []

    def pretrain(name: str, seed: int, run: Path, options) -> None:
        asked.append((name, seed))
        torch.manual_seed(seed)
        predictor = ViewPredictor(8, 4) if name in module.GJE_METHODS else None
        Pretrained(make_encoder("conv", 3, 8, 32, width=4), predictor).save(run / "encoder")
        (run / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 1, "time": 3.0 + seed}) + "\n")
        (run / "origin.json").write_text('{"commit": "c0ffee", "machine": "abacus"}')

    monkeypatch.setattr(module, "pretrain", pretrain)
    # the search for a penalty, which has tests of its own, costs more than all else
    quick = partial(fit_linear_probe, penalties=(0.1,), iterations=20)
    monkeypatch.setattr("gje_world.probing.encoder.fit_linear_probe", quick)
    return module, asked


def _arguments(pictures: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("--data", str(pictures), "--runs", str(folder / "runs"), "--csv", str(folder / "table.csv")),
        *("--images", "60", "--epochs", "1", "--batch", "10", "--outside", "10"),
        *("--methods", "gje", "simclr"),
        *more,
    ]


def test_the_table_ends_in_a_verdict_and_goes_on_where_it_stopped(table, pictures, tmp_path, capsys):
    module, asked = table
    module.main(_arguments(pictures, tmp_path, "--seeds", "1"))
    assert asked == [("gje", 1), ("simclr", 1)]
    module.main(_arguments(pictures, tmp_path, "--seeds", "2"))
    assert asked == [("gje", 1), ("simclr", 1), ("gje", 2), ("simclr", 2)]
    rows = read_rows(tmp_path / "table.csv", module.KINDS)
    gje, simclr = rows[0], rows[1]
    assert {row["commit"] for row in rows} == {"c0ffee"}  # whatever is checked out when they are measured
    for classifier in ("linear", "linear_tempered", "knn"):
        for score in module.SCORES:
            assert gje[f"{classifier}_{score}"] is not None and simclr[f"{classifier}_{score}"] is not None
    assert gje["projection_marginalised_ece"] is not None and simclr["projection_marginalised_ece"] is None
    assert gje["ood_noise_joint"] is not None and simclr["ood_noise_joint"] is None
    assert simclr["ood_held_out_classes_seen_unlabelled_mahalanobis"] is not None
    text, targets = ((tmp_path / name).read_text() for name in ("table.md", "table_targets.md"))
    out = capsys.readouterr().out
    assert text in out and targets in out
    accuracies = [f"{row['linear_accuracy']:.4f}" for row in rows if row["method"] == "gje"]
    assert f"({', '.join(accuracies)})" in text  # each seed is shown
    verdicts = [line.split(" | ")[-1] for line in targets.splitlines() if " | " in line]
    judged = [cell for cell in verdicts if cell.startswith(("met,", "not met"))] + [
        cell for cell in verdicts[2:] if cell == "met |"
    ]
    # accuracy; ECE by baseline and in all; three sets and in all; seconds
    assert len(judged) == 1 + 2 + 4 + 1
    slow = module.Run({"linear_accuracy": 0.9, "seconds": 1e6}, None)
    said = {
        name: [module.Run(row, module.read_arrays(path))]
        for name, row in (("gje", gje), ("simclr", simclr))
        for path in [next((tmp_path / "runs").glob(f"{name}-seed1-*/predictions-*"))]
    }
    judged = [module.targets(runs, ["gje"], ["simclr"]) for runs in (said, said | {"mae": [slow]})]
    assert judged[0] == judged[1]  # what stands beside the targets is not in them


def test_what_is_done_is_in_the_results_and_in_no_target_without_what_was_said(
    table, pictures, tmp_path, capsys
):
    module, asked = table
    words = _arguments(pictures, tmp_path, "--seeds", "1")
    module.main(words)
    results, targets = ((tmp_path / name).read_text() for name in ("table.md", "table_targets.md"))
    (tmp_path / "table.md").unlink()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "table_targets.md").write_text("as told before")
    capsys.readouterr()
    module.main(words)
    assert len(asked) == 2 and (tmp_path / "table.md").read_text() == results
    assert (tmp_path / "table_targets.md").read_text() == "as told before"
    out = capsys.readouterr().out
    assert targets not in out and "has no predictions of gje, simclr" in out


def test_a_row_of_other_words_does_not_count_as_done(table, pictures, tmp_path, monkeypatch):
    module, asked = table
    words = _arguments(pictures, tmp_path, "--seeds", "1")
    module.main(words)
    monkeypatch.setitem(module.METHODS, "gje", [*module.METHODS["gje"], "optimizer.lr=5e-4"])
    module.main(words)
    assert asked == [("gje", 1), ("simclr", 1), ("gje", 1)]
    rows = read_rows(tmp_path / "table.csv", module.KINDS)
    assert [("5e-4" in row["words"]) for row in rows] == [False, False, True]


def test_words_of_the_command_line_make_a_row_of_their_own(table, pictures, tmp_path):
    module, asked = table
    words = _arguments(pictures, tmp_path, "--seeds", "1", "--methods", "gje")
    module.main(words)
    module.main([*words, "--with", "objective.contrast=0.5"])
    assert asked == [("gje", 1), ("gje", 1)]
    usual, other = read_rows(tmp_path / "table.csv", module.KINDS)
    assert (usual["method"], other["method"]) == ("gje", "gje, objective.contrast=0.5")
    assert other["words"] == usual["words"] + " objective.contrast=0.5"


def test_validation_is_on_images_that_nothing_has_seen(table, pictures):
    module, _ = table

    def images(count: int, validation: bool):
        options = module.argparse.Namespace(data=pictures, images=count, validation=validation)
        return module.images_of(options)

    split, usual = images(72, True), images(72, False)
    assert len(split.test) == 8 and torch.equal(split.train.pixels, usual.train.pixels)
    seen = {each.numpy().tobytes() for part in (usual.train, usual.test) for each in part.pixels}
    assert not seen & {each.numpy().tobytes() for each in split.test.pixels}
    with pytest.raises(SystemExit, match="--images 73 must be at most 72 of 80 with --validation"):
        images(73, True)


def test_every_methods_words_are_taken_and_encoders_are_alike(benchmark, pictures):
    module = benchmark("cifar_table")
    options = module.argparse.Namespace(epochs=12, images=20_000, batch=256, words=[])
    shapes = {}
    pixels = ["data=zip", f"data.path={pictures}", "data.image_size=32"]
    for name in module.METHODS:
        config = configuration("pretrain", PretrainConfig, *pixels, *module.words_of(name, options))
        shapes[name] = check(config).method.encoder.description
        assert config.engine.updates == 937
        if config.method.name in ("byol", "dino"):
            assert config.method.momentum == 0.99
    on_conv = [shapes[name] for name in (*module.GJE_METHODS, *module.BASELINES)]
    assert all(shape["architecture"] == on_conv[0]["architecture"] for shape in on_conv)
    for name in module.ON_VIT:
        assert "vit_tiny" in name and shapes[name]["architecture"]["name"] == "vit_tiny"


def test_placements_average_to_the_area_under_the_curve(benchmark):
    generator = torch.Generator().manual_seed(0)
    inside = torch.randint(20, (300,), generator=generator).float()
    outside = torch.randint(25, (200,), generator=generator).float()
    truth = torch.cat([torch.zeros(300), torch.ones(200)]).long()
    expected = float(binary_auroc(torch.cat([inside, outside]) / 25, truth))
    for part in benchmark("cifar_verdict").placements(inside, outside):
        assert float(part.mean()) == pytest.approx(expected, abs=1e-5)


def test_intervals_are_paired_and_know_what_is_noise(benchmark):
    module = benchmark("cifar_verdict")
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2000, 5, generator=generator)
    y = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)

    def run(sharpness: float):
        said = (sharpness * logits).softmax(-1).numpy()
        predictions = {"labels": y.numpy(), "probabilities/linear": said}
        return [module.Run({}, predictions)]

    same = module.calibration_difference(run(1.0), run(1.0))
    assert same == (0.0, 0.0)
    worse = module.calibration_difference(run(1.0), run(3.0))
    assert worse.told(0.0, above=False) == "met"
    near = module.calibration_difference(run(1.0), run(1.01))
    assert near.told(0.0, above=False).endswith("within noise")
    assert module.accuracy_difference(run(1.0), run(3.0)) == (0.0, 0.0)  # the same class is the likeliest


@pytest.fixture
def control(benchmark, monkeypatch, tmp_path):
    """The study's module, with what its commands would leave behind in place of hours of them."""
    module, calls = benchmark("pretrained_control"), []

    def call(command: str, *options: str) -> None:
        words = dict(option.partition("=")[::2] for option in options)
        calls.append((command, words))
        run = Path(words["run_dir"])
        run.mkdir(parents=True, exist_ok=True)
        if command == "gje_world.pretrain":
            torch.manual_seed(0)
            encoder = make_encoder(
                "conv", 9, int(words["encoder.dim"]), 64, width=int(words["encoder.width"])
            )
            encoder.centre_on(torch.full((4, 9, 64, 64), 77, dtype=torch.uint8))
            encoder.save(run / "encoder", data={"images": 30})
            (run / "config.yaml").write_text("data: {task: dmc/cartpole-swingup, frames: 30, every: 2}\n")
            return
        (run / "origin.json").write_text('{"commit": "c0ffee", "machine": "abacus"}')
        level = 1 if run.name.startswith("pretrained") else 2  # frames to reach it, in evaluations
        returns = [100.0 if index >= level else 0.0 for index in range(5)]
        lines = [
            {"kind": "eval", "step": 1000 * index, "time": 1.0, "eval/return_mean": value + 10 * (index == 4)}
            for index, value in enumerate(returns)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(module, "call", call)
    module.main(
        ["--runs", str(tmp_path / "runs"), "--csv", str(tmp_path / "control.csv"), "--seeds", "1", "2"]
    )
    kinds = dict.fromkeys(("task", "encoder", "mode", "returns", "command", "commit", "machine"), str)
    return calls, read_rows(tmp_path / "control.csv", kinds)


def test_control_compares_three_arms_by_the_mean_of_their_last_evaluations(control):
    _, rows = control
    assert [(row["encoder"], row["seed"]) for row in rows] == [
        (arm, seed) for arm in ("scratch", "pretrained", "untrained") for seed in (1, 2)
    ]
    assert all(row["final_return"] == pytest.approx((100 + 100 + 110) / 3, abs=0.1) for row in rows)
    assert rows[0]["returns"] == "0 0 100 100 110" and rows[0]["commit"] == "c0ffee"
    found = {row["encoder"]: row for row in rows}
    assert [found[arm]["frames_to_80_own"] for arm in ("scratch", "pretrained", "untrained")] == [
        2000,
        1000,
        2000,
    ]
    before = 30 * 2 * 8  # images, agent steps between them, env frames of a step
    assert found["pretrained"]["frames_to_80_own_with_pretraining"] == 1000 + before
    assert found["untrained"]["frames_to_80_own_with_pretraining"] == 2000


def test_the_arms_of_control_have_encoders_of_one_shape_and_differ_in_their_weights(control):
    calls, _ = control
    folders = {
        words["encoder"] for command, words in calls if command == "agents.train" and "encoder" in words
    }
    assert len(folders) == 3  # the pretrained one, and an untrained one for each seed
    world = importlib.import_module("gje_world.world_model").WorldModelConfig()
    scratch = ConvEncoder(9, world.dim, 64, world.encoder_width)
    weights = []
    for folder in folders:
        encoder = load_encoder(folder)
        assert encoder.description["architecture"] == scratch.description["architecture"]
        buffers = dict(encoder.named_buffers())
        assert buffers and all(
            torch.equal(buffers[name], value)
            for name, value in dict(load_encoder(next(iter(folders))).named_buffers()).items()
        )
        weights.append(torch.cat([part.flatten() for part in encoder.parameters()]))
        adapted = AdaptedEncoder(encoder, 9, world.dim, frozen=False)
        assert torch.equal(adapted.project.weight, torch.eye(world.dim))  # nothing to adapt
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


def test_throughput_is_told_of_each_contender(benchmark, monkeypatch, tmp_path, capsys):
    module = benchmark("pretrain_throughput")
    assert module.ours(2, 1, 1) > 0
    speeds = {"ours": 30.0, "lightly, same views": 20.0, "lightly": 10.0}
    monkeypatch.setattr(
        module, "medians", lambda kinds, *size, rounds: {name: speeds[name] for name in kinds}
    )
    module.main(["--csv", str(tmp_path / "throughput.csv")])
    kinds = dict.fromkeys(("contender", "precision", "command", "commit", "machine"), str)
    rows = read_rows(tmp_path / "throughput.csv", kinds)
    assert [row["ours_is_faster_by"] for row in rows] == [1.0, 1.5, 3.0]
    assert capsys.readouterr().out.count("images/s") == 3


def test_lightlys_modules_run_on_the_same_images(benchmark):
    anyhow = benchmark("torchvision_anyhow")
    try:
        anyhow.import_torchvision()
    except ImportError:
        pytest.skip("no torchvision")
    pytest.importorskip("lightly", exc_type=ImportError)
    assert benchmark("pretrain_throughput").lightlys("lightly, same views", 2, 1, 1) > 0


def test_torchvision_is_imported_with_operators_that_do_nothing_where_its_own_do_not_fit(
    benchmark, monkeypatch
):
    """As with a build of torch that its compiled part was not made for."""
    module, tried = benchmark("torchvision_anyhow"), []

    def import_module(name: str):
        tried.append(name)
        if len(tried) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")
        return torch.ops.torchvision.nms

    monkeypatch.setattr(module.importlib, "import_module", import_module)
    if "torchvision" in sys.modules:
        pytest.skip("its own operators are there")
    assert module.import_torchvision() is not None and tried == ["torchvision"] * 2
