"""What methods of pretraining are worth on CIFAR-10: one small encoder, equal epochs and views, all seeds.

Each method is pretrained by `gje-pretrain` in a process of its own and measured as `gje-probe encoders` does.
A table that was stopped goes on where it stopped, also within a run; a row counts as done for the very words
that `gje-pretrain` was given. At the end the results are printed and written beside the CSV (`.md`); so are
the targets (`_targets.md`), if `--runs` holds the predictions of every method that they are about.

    python benchmarks/cifar_table.py --data cifar10.zip --csv results/cifar10.csv
    python benchmarks/cifar_table.py --data cifar10.zip --csv validation.csv --validation --methods gje \
        --with objective.contrast=0.5

What is measured, and how it was chosen (targets: `cifar_verdict.py`):

- The calibration error that methods are compared by is `linear_ece`: of the plain linear probe on the
  encoder's embedding, without temperature, for all methods alike. For GJE `projection_marginalised_ece`
  stands beside it: of a probe over its projection, fitted and averaged over the belief. It decides no target.
- The three sets out of distribution are noise, textures and digits. Held-out classes are no such set: their
  images were seen, unlabelled, in pretraining. Their columns say so.
- The belief's score is `joint`, minus the log-density of an image's projection and of another view's given
  it: what the objective models, marginal and belief together. Surprise alone asks whether the views of an
  image foretell one another, as they do of a plain strange image too. It is held against Mahalanobis distance
  on the embedding of the same encoder, which is told the labels.
- Baselines have the options of their papers, scaled to so short a run and so small an encoder where a comment
  says so; none was tuned. Contrast, temperature and resolution of GJE were, on one seed of each choice, with
  `--validation`: on a tenth of the training images, which neither pretraining nor a probe has seen, in place
  of the test images. An earlier GJE had been measured on the test images before (commit cc661f3: linear
  50.9 %): at a sharper temperature, and with beliefs that learnt from the contrast too, so untrue ones.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from cifar_verdict import SETS, Run, results, targets
from measure import parser

from gje_world.data.decoding import decode_all, zip_of_images
from gje_world.data.images import Split
from gje_world.pretrained import load_pretrained
from gje_world.probing.data import hold_out_classes, probe_data, with_unlike
from gje_world.probing.encoder import probe_encoder
from gje_world.probing.encoders import read_arrays, save_arrays
from gje_world.training.atomic import replacing
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.metrics import read_metrics
from gje_world.training.origin import origin_measuring
from gje_world.training.tables import Row, read_rows, write_rows

# words of gje-pretrain; what is not said is the same for all
CONV = [
    "encoder=conv",
    "encoder.width=64",
    "encoder.dim=512",
    "augment=simclr",
]  # all that convolutions end in
VIT = [
    "encoder=vit_tiny",
    "encoder.depth=4",
    "augment=mae",
]  # what masks patches needs some, and its own views
PROJECTOR = "method.projector_hidden=512"
# an average over some hundred updates: the papers' 0.996 is for a hundred times as many as a run here has
MOMENTUM = "method.momentum=0.99"
# the defaults between views, written out: a row is known by its words
CONTRAST = ["objective.contrast=0.8", "objective.temperature=0.25", "objective.resolution=0.35"]
GJE_METHODS = {
    "gje": [PROJECTOR, *CONTRAST],
    "gje, low rank": [PROJECTOR, *CONTRAST, "belief=low_rank"],
    "gje, mixture": [PROJECTOR, *CONTRAST, "belief=mixture"],
    "gje, likelihood alone": [PROJECTOR, "objective.contrast=0", "objective.resolution=0"],
    "gje joint": [PROJECTOR, "objective=gje_joint", "objective.shrinkage=0.3"],
    "gmje": [PROJECTOR, "objective=gmje"],
    "gmje gng": [PROJECTOR, "objective=gmje_gng"],
    # squared distances as sharp as SimCLR's cosines, and a marginal term no stronger than their gradient
    "gmje smc": [PROJECTOR, "objective=gmje_smc", "objective.bandwidth=8", "objective.marginal_weight=0.015"],
    "vje": [PROJECTOR, "objective=vje", "objective.marginal=none"],
    "vi-simsiam": [PROJECTOR, "objective=vi_simsiam"],
}
BASELINES = {
    "simclr": ["method=simclr", PROJECTOR],
    "byol": ["method=byol", PROJECTOR, "method.dim=128", MOMENTUM],
    "simsiam": ["method=simsiam", "method.dim=512"],  # as wide as its dim all through
    "vicreg": ["method=vicreg", PROJECTOR, "method.dim=512"],
    "barlow twins": ["method=barlow_twins", PROJECTOR, "method.dim=512"],
    "dino": ["method=dino", PROJECTOR, "method.prototypes=1024", MOMENTUM],
}
# another encoder and other views: beside the targets, which are about one encoder
ON_VIT = {"mae, vit_tiny": ["method=mae"], "masked gje, vit_tiny": ["method=masked_gje"]}
METHODS = (
    {name: [*CONV, *words] for name, words in (GJE_METHODS | BASELINES).items()}
    | {name: [*VIT, *words] for name, words in ON_VIT.items()}
)  # fmt: skip

CLASSIFIERS = (
    "linear", "linear_tempered", "linear_uncertain", "knn",
    "projection", "projection_marginalised", "projection_weighted",
)  # fmt: skip
SCORES = (
    "accuracy", "ece", "ece_floor", "ece_se",
    "ece_equal_mass", "ece_equal_mass_floor", "ece_equal_mass_se", "brier", "nll",
)  # fmt: skip
HELD_OUT = ("deer", "truck")  # of which a second probe has no label
SEEN = "held_out_classes_seen_unlabelled"
OOD_SCORES = ("surprise", "joint", "marginal", "mahalanobis", "neighbours")
VALIDATION = 0.1  # of the training images
KEY = ("method", "seed", "words", "probe_images", "test_images", "outside", "measured_on")
KINDS = dict.fromkeys(("seed", "probe_images", "test_images", "outside"), int) | dict.fromkeys(
    ("method", "words", "measured_on", "command", "commit", "machine"), str
)


def words_of(name: str, options: argparse.Namespace) -> list[str]:
    """What `gje-pretrain` is told of a method, but for its seed and for where things are."""
    updates = options.epochs * options.images // options.batch
    return [
        *(f"data.subset={options.images}", f"batch_size={options.batch}", f"engine.updates={updates}"),
        "optimizer.lr=1e-3",
        *METHODS[name],
        *options.words,
    ]


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def run_directory(name: str, seed: int, options: argparse.Namespace) -> Path:
    """A directory of its own for each method, seed and words."""
    label = name.replace(", ", "-").replace(" ", "-")
    return options.runs / f"{label}-seed{seed}-{digest(*words_of(name, options))}"


def pretrain(name: str, seed: int, run: Path, options: argparse.Namespace) -> None:
    """Run `gje-pretrain` to its end, or on from where it stopped; what has ended is exported once more."""
    words = [
        *("data=zip", f"data.path={options.data}", "data.image_size=32"),
        *words_of(name, options),
        *("probe_images=1000", f"engine.evaluate_every={options.epochs * options.images // options.batch}"),
        *("engine.checkpoint_every=200", "engine.device=cpu", "engine.threads=1"),
        *(f"seed={seed}", f"run_dir={run}"),
    ]
    subprocess.run([sys.executable, "-m", "gje_world.pretrain", *words], check=True)


def images_of(options: argparse.Namespace) -> Split:
    """The images that pretraining saw, and those to measure on: of the test part, or held out of training.

    Raises:
        SystemExit: there are not so many training images that a tenth stays unseen.
    """
    split = decode_all(zip_of_images(options.data), 32, skip_broken=False, workers=0)
    count = len(split.train)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))  # as data.subset chooses
    held_out = round(VALIDATION * count)
    if not options.validation:
        return replace(split, train=split.train.pick(order[: options.images]))
    if options.images > count - held_out:
        raise SystemExit(
            f"--images {options.images} must be at most {count - held_out} of {count} with --validation, so "
            "that a tenth stays unseen"
        )
    return replace(
        split, train=split.train.pick(order[: options.images]), test=split.train.pick(order[-held_out:])
    )


def measure(run: Path, split: Split, options: argparse.Namespace) -> Run:
    """What the run's encoder is worth, and how long it took."""
    data = probe_data(split, "cifar10", options.probe_images, options.test_images)
    pretrained = load_pretrained(run / "encoder")
    found = probe_encoder(pretrained, with_unlike(data, options.outside), heatmaps=0)
    fewer = probe_encoder(pretrained, hold_out_classes(data, HELD_OUT), heatmaps=0).row
    columns = {
        f"{name}_{score}": found.row.get(f"{name}/{score}") for name in CLASSIFIERS for score in SCORES
    }
    for score in OOD_SCORES:
        columns |= {f"ood_{kind}_{score}": found.row.get(f"ood/{kind}/{score}/auroc") for kind in SETS}
        columns[f"ood_{SEEN}_{score}"] = fewer.get(f"ood/held_out_classes/{score}/auroc")
    columns["seconds"] = read_metrics(run / "metrics.jsonl")[-1]["time"]
    return Run(
        {name: None if value is None else round(value, 5) for name, value in columns.items()},
        found.of_images,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the table, and tell results and targets."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="zip of train/<class>/ and test/<class>/")
    options.add_argument("--runs", type=Path, default=Path("runs/cifar_table"), help="run directories")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument(
        "--with", dest="words", nargs="+", default=[], metavar="WORD", help="more words of gje-pretrain"
    )
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--images", type=int, default=20_000, help="training images")
    options.add_argument("--batch", type=int, default=256)
    options.add_argument(
        "--probe-images", type=int, default=10_000, help="training images probes are fitted to"
    )
    options.add_argument("--test-images", type=int, default=10_000, help="images measured on")
    options.add_argument("--outside", type=int, default=500, help="images of noise, textures and digits each")
    options.add_argument(
        "--validation", action="store_true", help="measure on unseen training images, to choose options by"
    )
    asked = options.parse_args(arguments)
    keep_freed_memory()
    set_threads(1)
    rows: list[Row] = [] if asked.csv is None else read_rows(asked.csv, KINDS)
    measured_on = "validation" if asked.validation else "test"
    runs: dict[str, list[Run]] = {}
    split = None
    for seed in range(1, asked.seeds + 1):
        for name in asked.methods:
            shown = ", ".join([name, *asked.words])
            words = shlex.join(words_of(name, asked))
            key = (shown, seed, words, asked.probe_images, asked.test_images, asked.outside, measured_on)
            run = run_directory(name, seed, asked)
            predictions = run / f"predictions-{digest(*key)}.npz"
            done = [row for row in rows if tuple(row[column] for column in KEY) == key]
            if not done:
                if split is None:
                    split = images_of(asked)
                pretrain(name, seed, run, asked)
                found = measure(run, split, asked)
                save_arrays(predictions, found.predictions)
                done = [dict(zip(KEY, key, strict=True)) | found.row | origin_measuring(run)]
                rows += done
                if asked.csv is not None:
                    write_rows(asked.csv, rows)
            told = ("method", "seed", "linear_accuracy", "linear_ece", "linear_ece_floor", "seconds")
            print({column: done[0][column] for column in told}, flush=True)
            said = read_arrays(predictions) if predictions.exists() else None
            runs.setdefault(shown, []).append(Run(done[0], said))
    title = f"CIFAR-10, measured on the {measured_on} images"
    tell(f"# {title}\n\nMean over seeds (each seed).\n\n{results(runs)}", asked.csv, ".md")
    ours, theirs = ([name for name in names if name in runs] for names in (GJE_METHODS, BASELINES))
    if not ours or not theirs:
        return
    lacking = [name for name in (*ours, *theirs) if any(run.predictions is None for run in runs[name])]
    if lacking:
        print(
            f"No targets are told, and those told before stand: {asked.runs} has no predictions of "
            f"{', '.join(lacking)}; rows that are taken out of the CSV are measured again"
        )
    else:
        tell(f"# {title}: the targets\n\n{targets(runs, ours, theirs)}", asked.csv, "_targets.md")


def tell(text: str, csv: Path | None, ending: str) -> None:
    """Prints a text, and writes it beside the CSV, if there is one, into a file of this ending."""
    print(text)
    if csv is not None:
        with replacing(csv.with_name(csv.stem + ending)) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
