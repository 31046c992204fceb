"""What methods of pretraining are worth on CIFAR-10: one small encoder, equal epochs and views, all seeds.

Each method is pretrained by `gje-pretrain` in a process of its own and measured as `gje-probe encoders` does.
A table that was stopped goes on where it stopped, also within a run.

    python benchmarks/cifar_table.py --data cifar10.zip --csv results/cifar10.csv
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from measure import parser, write_csv

from gje_world.data.decoding import decode_all, zip_of_images
from gje_world.data.images import Split
from gje_world.pretrained import load_pretrained
from gje_world.probing.data import hold_out_classes, probe_data, with_unlike
from gje_world.probing.encoder import probe_encoder
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.metrics import read_metrics
from gje_world.training.origin import origin

# words of gje-pretrain for each method; what is not said is the same for all
GJE_METHODS = {
    "gje": [],
    "gje, low rank": ["belief=low_rank"],
    "gje, mixture": ["belief=mixture"],
    "gje joint": ["objective=gje_joint", "objective.shrinkage=0.3"],
    "gmje": ["objective=gmje"],
    # squared distances as sharp as SimCLR's cosines, and a marginal term no stronger than their gradient
    "gmje smc": ["objective=gmje_smc", "objective.bandwidth=8", "objective.marginal_weight=0.015"],
    "vje": ["objective=vje", "objective.marginal=none"],
    "vi-simsiam": ["objective=vi_simsiam"],
}
BASELINES = {
    "simclr": ["method=simclr"],
    "byol": ["method=byol", "method.dim=128"],
    "simsiam": ["method=simsiam", "method.dim=512"],
    "vicreg": ["method=vicreg", "method.dim=512"],
    "barlow twins": ["method=barlow_twins", "method.dim=512"],
    "dino": ["method=dino", "method.prototypes=1024"],
}
METHODS = GJE_METHODS | BASELINES
HIDDEN = 512  # of every projector that has one
MEASURED = {
    "linear": "linear/accuracy",
    "knn": "knn/accuracy",
    "ece": "linear/ece",
    "ece_equal_mass": "linear/ece_equal_mass",
    "ece_by_belief": "linear_uncertain/ece",
    "ece_sampled": "projection_sampled/ece",
    "brier": "linear/brier",
    "nll": "linear/nll",
}
# classes of which a second probe has no label; the encoder has seen their images
HELD_OUT = ("deer", "truck")
SETS = ("noise", "textures", "digits", "held_out_classes")
SCORES = ("surprise", "joint", "marginal", "mahalanobis", "neighbours")
SETTINGS = ("epochs", "images", "batch", "probe_images", "test_images", "outside")
KEY = ("method", "seed", *SETTINGS)


def pretrain(name: str, seed: int, folder: Path, options: argparse.Namespace) -> Path:
    """Run `gje-pretrain` to its end, or on from where it stopped; its run directory.

    One that has ended is exported once more: `gje-pretrain` refuses a directory of other options.
    """
    size = f"epochs{options.epochs}-images{options.images}-batch{options.batch}"
    run = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{size}-seed{seed}"
    updates = options.epochs * options.images // options.batch
    words = [
        *("data=zip", f"data.path={options.data}", "data.image_size=32", f"data.subset={options.images}"),
        *(
            "encoder=conv",
            "encoder.width=64",
            "encoder.dim=512",  # all that the convolutions end in
            "augment=simclr",
            f"batch_size={options.batch}",
            "probe_images=1000",
        ),
        *(f"engine.updates={updates}", f"engine.evaluate_every={updates}", "engine.checkpoint_every=200"),
        *("engine.device=cpu", "engine.threads=1", "optimizer.lr=1e-3", f"seed={seed}", f"run_dir={run}"),
    ]
    if name not in ("simsiam",):
        words.append(f"method.projector_hidden={HIDDEN}")
    subprocess.run([sys.executable, "-m", "gje_world.pretrain", *words, *METHODS[name]], check=True)
    return run


def measure(run: Path, split: Split, options: argparse.Namespace) -> dict[str, object]:
    """Columns of a row: what the run's encoder is worth, and how long it took."""
    data = probe_data(split, "cifar10", options.probe_images, options.test_images)
    pretrained = load_pretrained(run / "encoder")
    row = probe_encoder(pretrained, with_unlike(data, options.outside), heatmaps=0).row
    fewer = probe_encoder(pretrained, hold_out_classes(data, HELD_OUT), heatmaps=0).row
    row |= {name: value for name, value in fewer.items() if name.startswith("ood/held_out_classes/")}
    found: dict[str, object] = {column: row.get(name) for column, name in MEASURED.items()}
    for kind in SETS:
        for score in SCORES:
            found[f"ood_{kind}_{score}"] = row.get(f"ood/{kind}/{score}/auroc")
    found = {name: round(value, 5) if isinstance(value, float) else value for name, value in found.items()}
    return found | {"seconds": round(read_metrics(run / "metrics.jsonl")[-1]["time"], 1)}


def main() -> None:
    """Fill the table, and print it."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="zip of train/<class>/ and test/<class>/")
    options.add_argument("--runs", type=Path, default=Path("runs/cifar_table"), help="run directories")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--images", type=int, default=20_000, help="training images")
    options.add_argument("--batch", type=int, default=256)
    options.add_argument(
        "--probe-images", type=int, default=10_000, help="training images probes are fitted to"
    )
    options.add_argument("--test-images", type=int, default=10_000, help="test images measured on")
    options.add_argument("--outside", type=int, default=500, help="images of noise, textures and digits each")
    arguments = options.parse_args()
    keep_freed_memory()
    set_threads(1)
    rows: list[dict] = []
    if arguments.csv is not None and arguments.csv.exists():
        with arguments.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[name] for name in KEY) for row in rows}
    settings = [str(getattr(arguments, name)) for name in SETTINGS]
    wanted = [(name, seed) for seed in range(1, arguments.seeds + 1) for name in arguments.methods]
    split = None
    for name, seed in wanted:
        key = (name, str(seed), *settings)
        if key in done:
            continue
        run = pretrain(name, seed, arguments.runs, arguments)
        if split is None:
            split = decode_all(zip_of_images(arguments.data), 32, skip_broken=False, workers=0)
            chosen = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(0))
            split = replace(split, train=split.train.pick(chosen[: arguments.images]))
        rows.append(dict(zip(KEY, key, strict=True)) | measure(run, split, arguments) | origin())
        print(
            {name: rows[-1][name] for name in ("method", "seed", *list(MEASURED)[:3], "brier", "seconds")},
            flush=True,
        )
        if arguments.csv is not None:
            write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
