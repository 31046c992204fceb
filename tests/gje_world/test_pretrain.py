"""`gje-pretrain` runs every method, goes on after a kill bit for bit, learns, and leaves an encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from PIL import Image

import gje_world
import gje_world.pretrain
from gje_world.methods import METHODS, method_options
from gje_world.options import ConfigError
from gje_world.pretrain import PretrainConfig, check, main, run_path
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


def composed(*words: str) -> PretrainConfig:
    ConfigStore.instance().store(name="pretrain_schema", node=PretrainConfig)
    with initialize_config_module("configs", version_base=None):
        return OmegaConf.to_object(compose("pretrain", list(words)))


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


@pytest.fixture
def no_probe_report(monkeypatch):
    """The report at the end left out, which other tests look at."""
    monkeypatch.setattr(gje_world.pretrain, "probe_report", lambda path, *rest: path)


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=mae"], "needs patches: encoder=vit_tiny"),
        (["method=mae", "encoder=vit_tiny", "encoder.dim=64"], "encoder.dim=64 must be 192, the width of"),
        (["method=simclr", "method.prototypes=3"], "method=simclr has no option prototypes"),
        (["belief=point"], "belief=point has no density"),
        (["objective=gmje_mdn", "belief.name=diagonal"], "needs belief=mixture"),
        (["data=zip"], "data=zip needs data.path"),
        (["data=folder", "data.path=/nowhere"], "data.path=/nowhere does not exist"),
        (["data=cifar10", "data.path=/", "data.image_size=64"], "data.image_size=64 must be 32"),
        (["encoder.dim=0"], "encoder.dim=0 must be at least 1"),
        (["encoder=resnet18", "encoder.patch=4"], "no option patch"),
        (["optimizer.lr=0"], "optimizer.lr=0.0 must be above 0"),
        (["augment=dino", "augment.local_size=32"], "augment.local_size=32 must be 64"),
        (["engine.updates=0"], "engine.updates=0 must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(words, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check(composed(*words, f"run_dir={tmp_path}/run"))
    assert not (tmp_path / "run").exists()


def test_every_preset_and_objective_goes_together():
    for preset in ("default", "debug", "full"):
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


def test_what_is_exported_can_be_read(pictures, tmp_path, no_probe_report):
    assert run(*arguments(pictures, tmp_path, "data.licence=CC0")) == 0
    described = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert described["encoder"]["architecture"]["name"] == "conv"
    assert (
        described["provenance"]["licence"] == "CC0" and described["predictor"]["belief"]["name"] == "diagonal"
    )
