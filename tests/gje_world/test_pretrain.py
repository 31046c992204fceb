"""`gje-pretrain` runs every method, goes on after a kill bit for bit, learns, and leaves an encoder."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gje_world
import gje_world.pretrain
from gje_world import command
from gje_world.data.images import Images
from gje_world.evaluation.pretraining import evaluate_encoder
from gje_world.methods import METHODS, method_options
from gje_world.methods.config import MethodConfig, check_bounds
from gje_world.methods.gje import GJE
from gje_world.networks import make_encoder
from gje_world.options import ConfigError
from gje_world.pretrain import PretrainConfig, check, epochs, length, main, pretrain, run_path
from gje_world.training.metrics import read_metrics

FAST = ["preset=debug", "engine.device=cpu", "engine.precision=float32", "engine.threads=1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Noisy stripes, which lie or stand: two classes that no mean colour tells."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(240):
        stands = index % 2
        place = folder / ("train" if index < 200 else "test") / ("stand", "lie")[stands]
        place.mkdir(parents=True, exist_ok=True)
        wave = 60 * np.sin(np.arange(16) * generator.uniform(1.0, 1.6) + generator.uniform(0, 6))
        image = np.tile(wave[:, None], (1, 16)) if stands else np.tile(wave, (16, 1))
        image = 128 + image + generator.normal(0, 25, (16, 16))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert("RGB").save(place / f"{index}.png")
    return folder


def arguments(pictures: Path, run_dir: Path, *more: str) -> list[str]:
    data = [
        "data=folder",
        f"data.path={pictures}",
        "data.image_size=16",
        "encoder.width=8",
        f"run_dir={run_dir}",
    ]
    return [*FAST, *data, *more]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


composed = partial(command.configuration, "pretrain", PretrainConfig)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_exports(name, pictures, tmp_path, monkeypatch):
    if name != "gje":  # the report costs more than the run, and is the same for all
        monkeypatch.setattr(gje_world.pretrain, "probe_report", lambda path, *rest: path)
    more = [f"method={name}"]
    if METHODS[name].needs_patches:
        more = [*more, "encoder=vit_tiny", "encoder.depth=1", "augment=mae"]
        words = [word for word in arguments(pictures, tmp_path, *more) if word != "encoder.width=8"]
    else:
        words = arguments(pictures, tmp_path, *more, *(["augment=dino"] if name == "dino" else []))
    narrow = {"dim": 16, "prototypes": 32, "projector_hidden": 32} | (
        {"patch_weight": 1.0} if name == "masked_gje" else {}
    )
    words += [
        f"method.{option}={value}" for option, value in narrow.items() if option in method_options(name)
    ]
    assert run(*words) == 0
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2, 4]
    assert {"eval/linear_accuracy", "eval/knn_accuracy", "embedding/effective_rank"} <= rows[-1].keys()
    assert ("calibration/observed" in rows[-1]) == (name == "gje")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "probe/report.html").exists() == (name == "gje")
    found = gje_world.load_pretrained(tmp_path / "encoder")
    assert found.encoder.image_size == 16 and (found.predictor is not None) == (name == "gje")
    assert found.provenance["method"]["name"] == name and found.provenance["data"]["images"] == 200


def test_without_an_argument_frames_are_rendered_learnt_from_and_told_of(tmp_path):
    pytest.importorskip("dm_control")
    assert run("preset=debug", "engine.device=cpu", "engine.threads=1", f"run_dir={tmp_path}") == 0
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert last["kind"] == "eval" and math.isfinite(last["eval/state_r2"])
    assert "probe/r2/position[0]" in last
    assert (tmp_path / "report.html").exists() and (tmp_path / "probe/report.html").exists()
    found = gje_world.load_encoder(tmp_path / "encoder")
    assert (found.channels, found.image_size) == (9, 64)
    told = gje_world.load_pretrained(tmp_path / "encoder").provenance
    assert told["data"]["task"] == "dmc/cartpole-swingup" and told["licence"] == "rendered by this run"


@pytest.fixture
def no_probe_report(monkeypatch):
    """The report at the end left out, which other tests look at."""
    monkeypatch.setattr(gje_world.pretrain, "probe_report", lambda path, *rest: path)


def test_a_compiled_method_learns_what_it_would_else(pictures, tmp_path, no_probe_report, monkeypatch):
    compiled = partial(torch.nn.Module.compile, backend="eager")  # all of torch.compile but the code it makes
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module))
    found = []
    for word in ("false", "true"):
        assert run(*arguments(pictures, tmp_path / word, f"engine.compile={word}")) == 0
        found.append(
            [
                row["loss/total"]
                for row in read_metrics(tmp_path / word / "metrics.jsonl")
                if "loss/total" in row
            ]
        )
    assert len(found[0]) == 2 and found[0] == pytest.approx(found[1], rel=1e-4)


def test_it_learns_what_a_random_encoder_does_not_know(pictures, tmp_path, no_probe_report):
    learning = ["engine.updates=60", "engine.evaluate_every=60", "batch_size=64", "optimizer.lr=3e-3"]
    sizes = [
        "probe_images=200",
        "method.projector_hidden=64",
        "method.dim=16",
        "encoder.dim=32",
        "encoder.width=16",
    ]
    views = ["augment=simclr", "augment.crop=[0.5,1.0]"]
    assert run(*arguments(pictures, tmp_path, *learning, *sizes, *views)) == 0
    rows = read_metrics(tmp_path / "metrics.jsonl")
    first, last = (row["eval/linear_accuracy"] for row in rows if row["kind"] == "eval")
    assert last > 0.85 and last > first + 0.1


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return gje_world.load_encoder(folder / "encoder").state_dict()


def test_a_killed_run_goes_on_bit_for_bit(pictures, tmp_path, no_probe_report):
    more = ["engine.updates=24", "engine.checkpoint_every=4", "engine.evaluate_every=12", "augment=simclr"]
    assert run(*arguments(pictures, tmp_path / "whole", *more)) == 0
    words = arguments(pictures, tmp_path / "killed", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "gje_world.pretrain", *words], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not list((tmp_path / "killed" / "checkpoints").glob("step_00000000[48]*.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "encoder").exists()
    assert run(*words) == 0
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    rows = [
        [
            {k: v for k, v in row.items() if k != "time" and not k.startswith("speed/")}
            for row in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]


def test_a_probe_that_is_left_is_made_by_the_same_command(pictures, tmp_path, monkeypatch, capsys):
    words = arguments(pictures, tmp_path / "run")

    def asked_to_stop(*_, advance, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        advance(1)

    monkeypatch.setattr(gje_world.pretrain, "probe_encoder", asked_to_stop)
    assert run(*words) == 128 + signal.SIGTERM
    assert (tmp_path / "run/encoder/encoder.json").exists() and not (tmp_path / "run/probe").exists()
    monkeypatch.undo()
    assert run(*words) == 0
    assert (tmp_path / "run/probe/report.html").exists()


def test_a_run_does_not_go_on_with_other_images(pictures, tmp_path, capsys, no_probe_report):
    images = tmp_path / "images"
    shutil.copytree(pictures, images)
    assert run(*arguments(images, tmp_path / "run")) == 0
    changed = next(images.glob("train/*/*.png"))
    Image.new("RGB", (16, 16)).save(changed)
    assert run(*arguments(images, tmp_path / "run")) == 2
    assert "began with other images" in capsys.readouterr().err


def test_probes_are_fitted_in_float32_whatever_the_encoder_runs_in(pictures):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = torch.randint(0, 128, (60, 3, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[:, 0, 0] += 20 * labels[:, None].to(torch.uint8)
    images = Images(pixels, labels, ("a", "b", "c"))

    def encoder(obs: torch.Tensor) -> torch.Tensor:  # the same numbers in any precision
        return obs.flatten(1).float()

    rows = [
        evaluate_encoder(encoder, images, images, torch.device("cpu"), precision, lambda: None)
        for precision in (nullcontext, partial(torch.autocast, "cpu", torch.bfloat16))
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=mae"], "needs patches: encoder=vit_tiny"),
        (["method=mae", "encoder=vit_tiny", "encoder.dim=64"], "encoder.dim=64 must be 192, the width of"),
        (["method=simclr", "method.prototypes=3"], "method=simclr has no option prototypes"),
        (["belief=point"], "belief=point has no density"),
        (["objective=gmje_mdn", "belief.name=diagonal"], "needs belief=mixture"),
        (
            ["method=simclr", "objective.contrast=0.5"],
            "objective.contrast=0.5 needs method=gje or masked_gje",
        ),
        (["method=simclr", "belief=mixture"], "belief=mixture needs method=gje or masked_gje"),
        (["objective.contrast=1"], "objective.contrast=1.0 must be at least 0 and below 1"),
        (["objective.contrast=0", "objective.temperature=0.1"], "needs objective.contrast above 0"),
        (
            ["method=masked_gje", "encoder=vit_tiny", "augment=mae", "objective.contrast=0.5"],
            "objective.contrast=0.5 needs method=gje; got method=masked_gje",
        ),
        (
            ["method=masked_gje", "encoder=vit_tiny", "augment=mae", "belief=power_spherical"],
            "belief=power_spherical is over directions alone; embeddings of a world or of patches need",
        ),
        (["data=zip"], "data=zip needs data.path"),
        (["data.path=images.zip"], "data.path=images.zip is not read by data=frames; give data=folder, zip"),
        (["data=folder", "data.path=/nowhere"], "data.path=/nowhere does not exist"),
        (["data=cifar10", "data.path=/", "data.image_size=64"], "data.image_size=64 must be 32"),
        (["encoder.dim=0"], "encoder.dim=0 must be at least 1"),
        (["encoder=resnet18", "encoder.patch=4"], "no option patch"),
        (["optimizer.lr=0"], "optimizer.lr=0.0 must be above 0"),
        (["engine.devices=3", "batch_size=64"], "batch_size=64 must be a multiple of the 3 devices"),
        (["method=dino", "augment=dino", "augment.local_size=32"], "augment.local_size=32 must be 64"),
        (["method=byol", "augment=dino"], "augment.local_views=6 must be 0 with method=byol"),
        (["engine.compile=true", "chunk=8"], "chunk=8 must be null with engine.compile=true"),
        (["seed=99999999999999999999"], "seed=99999999999999999999 must be between 0 and"),
        (["optimizer.lr=inf"], "optimizer.lr=inf must be above 0, and finite"),
        (["augment.aspect=inf"], "augment.aspect=inf must be finite"),
        (["engine.updates=0"], "engine.updates=0 must be at least 1"),
        (["method=byol", "method.momentum=1.5"], "method.momentum=1.5 must be at least 0 and below 1"),
        (["method=dino", "method.momentum=1"], "method.momentum=1.0 must be at least 0 and below 1"),
        (["method=vicreg", "method.covariance=-1"], "method.covariance=-1.0 must be at least 0"),
        (["method=vicreg", "method.invariance=inf"], "method.invariance=inf must be finite"),
        (["method=simclr", "method.temperature=0"], "method.temperature=0.0 must be above 0"),
        (["method.projector_hidden=0"], "method.projector_hidden=0 must be at least 1"),
        (["method=mae", "method.mask_ratio=0"], "method.mask_ratio=0.0 must be above 0 and below 1"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr("gje_world.pretrain.load_images", lambda *_: pytest.fail("images were read"))
    with pytest.raises(ConfigError, match=message):
        pretrain(composed(*words, f"run_dir={tmp_path}/run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["method=vicreg", "method.covariance=0"],
        ["method=barlow_twins", "method.redundancy=0"],
        ["method=byol", "method.momentum=0"],
    ],
)
def test_ablations_are_allowed(words):
    check(composed(*words))


@pytest.mark.parametrize(
    "words, contrast, resolution, weight",
    [
        ([], 0.8, 0.35, 1.0),
        (["belief=ensemble"], 0.8, 0.35, 1.0),
        (["objective.contrast=0"], 0.0, 0.0, 2.0),
        (["belief=flow"], 0.0, 0.0, 2.0),
        (["belief=full", "objective.contrast=0.5"], 0.5, 0.35, 1.0),
        (["belief=low_rank", "objective.fit=composite"], 0.8, 0.35, 1.0),
        (["objective.beta=0.5"], 0.0, 0.0, 2.0),
        (["objective=gje_joint"], 0.0, 0.0, 1.0),
        (["method=masked_gje", "encoder=vit_tiny", "augment=mae"], 0.0, 0.0, 2.0),
    ],
)
def test_beliefs_that_are_soon_compared_are_so_between_views(words, contrast, resolution, weight):
    objective = check(composed(*words)).method.objective
    assert (objective.contrast, objective.resolution, objective.marginal_weight) == (
        contrast, resolution, weight,
    )  # fmt: skip


@pytest.mark.parametrize("belief", ["diagonal", "low_rank", "ensemble"])
def test_a_contrast_teaches_the_embedding_and_leaves_the_telling_of_beliefs_to_the_likelihood(belief):
    views = [torch.randint(256, (2, 6, 3, 16, 16)).float()]
    gradients = []
    for contrast in (0.0, 0.75):
        torch.manual_seed(0)
        objective = {"name": "gje_conditional", "contrast": contrast, "resolution": 0.35}
        encoder = make_encoder("conv", 3, 8, 16, width=4)
        method = GJE(encoder, updates=1, dim=5, objective=objective, belief={"name": belief})
        method(views)[0].backward()
        beliefs = method.beliefs
        told, rest = (
            torch.cat([p.grad.flatten() for module in modules for p in module.parameters()])
            for modules in ((beliefs.trunk, beliefs.head), (method.encoder,))
        )
        gradients.append((told, rest))
    (told, rest), (told_beside, rest_beside) = gradients
    torch.testing.assert_close(told_beside, 0.25 * told)
    assert (rest_beside - 0.25 * rest).abs().max() > 1e-3 * rest.abs().max()


def numbers_that_stand_in_bounds() -> list[str]:
    return [
        f.name for f in fields(MethodConfig) if f.type in ("int | None", "float | None") and f.name != "name"
    ]


@pytest.mark.parametrize("name", numbers_that_stand_in_bounds())
def test_every_number_of_a_method_has_bounds(name):
    with pytest.raises(ConfigError, match=rf"method\.{name}=-1"):
        check_bounds(MethodConfig(**{name: -1}))
    with pytest.raises(ConfigError, match=rf"method\.{name}=nan"):
        check_bounds(MethodConfig(**{name: math.nan}))


def helped(capsys, *words: str) -> str:
    assert run(*words, "--help") == 0
    return capsys.readouterr().out


def test_photographs_are_learnt_from_for_longer_than_frames_and_help_says_so(capsys):
    updates = {
        words: int(re.search(r"engine\.updates=(\d+)", helped(capsys, *words))[1])
        for words in [
            (),
            ("data=cifar10",),
            ("data=cifar10", "engine.updates=7"),
            ("data=cifar10", "preset=default"),
        ]
    }
    assert list(updates.values()) == [250, 20_000, 7, 250]
    assert "augment.name=byol " in helped(capsys, "data=folder", "method=byol")
    with pytest.raises(SystemExit, match="2"):
        main(["method.dimm=3", "--help"])
    assert "unknown option 'method.dimm': nearest are" in capsys.readouterr().err


def test_a_run_tells_its_epochs_and_warns_where_they_are_few():
    short = composed("batch_size=256")
    assert epochs(short, 50_000) == 250 * 256 / 50_000
    told = length(short, 50_000)
    assert told.startswith("warning: 250 updates, 1.3 epochs") and "engine.updates=1954 " in told
    assert length(composed("engine.accumulate=8"), 50_000) == "250 updates, 10.2 epochs of these images"


def test_every_preset_and_objective_goes_together():
    for preset in ("default", "debug", "photographs", "full"):
        check(composed(f"preset={preset}"))
    for objective in ("gje_joint", "gmje", "gmje_gng", "gmje_smc", "gmje_mdn", "vje", "vi_simsiam"):
        config = composed(f"objective={objective}")
        check(config)
        assert objective in str(run_path(config))


def test_broken_images_stop_the_command_in_one_line(pictures, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    assert run(*FAST, "data=folder", f"data.path={tmp_path}", f"run_dir={tmp_path}/run") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "0.png is broken" in error


@pytest.mark.parametrize("method", ["byol", "gje"])
def test_two_processes_run_the_command_to_its_end(method, pictures, tmp_path):
    """Frozen moving averages and batch normalisation over both, as `torchrun` starts them."""
    if method == "byol":
        sizes = ["encoder=resnet18", "encoder.width=8", "method.dim=16", "method.projector_hidden=32"]
    else:
        sizes = ["encoder.width=8", "method.projector_hidden=32", "objective.target=momentum"]
    words = [word for word in arguments(pictures, tmp_path / "run") if not word.startswith("encoder.")]
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gje_world.pretrain"]
    done = subprocess.run(
        [sys.executable, "-m", *start, *words, f"method={method}", *sizes, "engine.devices=2"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4]
    assert gje_world.load_encoder(tmp_path / "run" / "encoder").image_size == 16


def test_the_teacher_of_dino_is_measured_and_exported(pictures, tmp_path, no_probe_report, monkeypatch):
    measured, methods = [], []

    def export(method, *rest):
        methods.append(method)
        original(method, *rest)

    original = gje_world.pretrain.export
    monkeypatch.setattr(gje_world.pretrain, "export", export)
    monkeypatch.setattr(
        gje_world.pretrain, "evaluate_encoder", lambda encoder, *rest: measured.append(encoder) or {}
    )
    narrow = ["method.dim=8", "method.prototypes=16", "method.projector_hidden=16", "method.momentum=0.5"]
    assert run(*arguments(pictures, tmp_path, "method=dino", "augment=dino", *narrow)) == 0
    (method,) = methods
    teacher, student = method.teacher_encoder.module.state_dict(), method.encoder.state_dict()
    found = weights(tmp_path)
    assert all(torch.equal(value, teacher[name]) for name, value in found.items())
    assert not all(torch.equal(value, student[name]) for name, value in found.items())
    assert len(measured) == 3 and all(each is method.teacher_encoder.module for each in measured)


def test_what_is_exported_can_be_read(pictures, tmp_path, no_probe_report):
    assert run(*arguments(pictures, tmp_path, "data.licence=CC0", "engine.accumulate=3")) == 0
    described = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert described["encoder"]["architecture"]["name"] == "conv"
    sizes = {
        name: described["provenance"][name] for name in ("updates", "batch_size", "accumulate", "epochs")
    }
    assert sizes == {"updates": 4, "batch_size": 16, "accumulate": 3, "epochs": 4 * 16 * 3 / 200}
    assert (
        described["provenance"]["licence"] == "CC0" and described["predictor"]["belief"]["name"] == "diagonal"
    )
