"""`gje-pretrain`: an encoder from views of images, measured while it learns, and left behind for others."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from gje_world.beliefs.config import BeliefConfig
from gje_world.command import run_command
from gje_world.data.decoding import BrokenImageError, WorkerError
from gje_world.data.image_sources import DataConfig, labelled, load_images, told_apart
from gje_world.data.images import Images, ShuffledBatches, Split
from gje_world.data.rendering import make_env
from gje_world.data.views import AugmentConfig, Views
from gje_world.evaluation.pretraining import evaluate_beliefs, evaluate_encoder
from gje_world.methods import METHODS, Method, method_options, over_ranks
from gje_world.methods.config import MethodConfig, build_method, objective_of
from gje_world.networks.config import EncoderConfig, build_encoder
from gje_world.objectives.config import ObjectiveConfig
from gje_world.options import (
    ConfigError,
    given,
    group,
    option,
    plain_value,
    require_above,
    require_at_least,
    require_groups,
    require_seed,
    require_shares,
)
from gje_world.plots.pretraining import write_report
from gje_world.pretrained import Pretrained, load_pretrained
from gje_world.probing.data import probe_data, with_unlike
from gje_world.probing.encoder import probe_encoder
from gje_world.probing.encoders import write_tables
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.engine import CHANGEABLE as ENGINE_CHANGEABLE
from gje_world.training.engine import Engine, EngineConfig, Learner
from gje_world.training.means import NonFiniteError
from gje_world.training.origin import origin, origin_of
from gje_world.training.ranks import make_fabric, open_run, silence
from gje_world.training.schedules import warm_cosine
from gje_world.training.signals import Stop, Stopped, stop_on_signals
from gje_world.training.tables import write_rows

ABOUT = """
gje-pretrain: learn an encoder from views of images, and leave it where load_encoder and gje-train find it.

  gje-pretrain                                                    frames of cartpole, rendered on the spot
  gje-pretrain data=zip data.path=cifar10.zip data.image_size=32 method=simclr encoder=resnet18
  gje-pretrain data=cifar10 data.path=cifar-10-binary.tar.gz method=gje objective=gje_joint belief=low_rank
  gje-pretrain method=mae encoder=vit_tiny augment=mae

Frames are viewed by augment=frames, and learnt from in 250 updates (preset=default). Photographs are viewed
by their method's recipe (byol, dino, mae) or augment=simclr, and learnt from in 20,000 updates, 100 epochs of
CIFAR-10 (preset=photographs). --help after any words shows what they would run.
The run directory holds report.html, metrics.jsonl, checkpoints/ and, at the end, encoder/. The same command
on the same run directory goes on where it stopped.
"""
RECIPES = {"byol": "byol", "dino": "dino", "mae": "mae", "masked_gje": "mae"}  # of photographs; simclr else
CENTRING_IMAGES = 1_000  # that pixels are normalised by
BELIEF_IMAGES = 512  # held out, that calibration is measured on
FEW_EPOCHS = 10  # below which a run warns at its start
UNLIKE_IMAGES = 500  # of noise, textures and digits each, that the probe report tells from held-out ones


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine."""

    lr: float = option(1e-3, "highest learning rate")
    weight_decay: float = option(1e-4, "decoupled")
    warmup: float = option(0.05, "share of the updates in which the rate rises")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: the first option found wrong.
        """
        require_above(0, self, "lr", prefix="optimizer.")
        require_at_least(0, self, "weight_decay", prefix="optimizer.")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"optimizer.warmup={self.warmup} must be at least 0 and below 1")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of parameter groups."""
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)


@dataclass
class PretrainConfig:
    """Options of `gje-pretrain`."""

    seed: int = option(1, "of everything random in the run")
    run_dir: str | None = option(
        None,
        "where all is written; null: a folder in runs/pretrain named by what runs",
    )
    batch_size: int = option(
        256, "images of a batch, over all devices; an update takes engine.accumulate batches"
    )
    chunk: int | None = option(None, "views encoded at once, by gradient caching; null: all of a device's")
    probe_images: int = option(5_000, "most images that probes are fitted to, and are measured on")
    data: DataConfig = group(DataConfig)
    encoder: EncoderConfig = group(EncoderConfig)
    method: MethodConfig = group(MethodConfig)
    augment: AugmentConfig = group(AugmentConfig)
    objective: ObjectiveConfig = group(ObjectiveConfig)
    belief: BeliefConfig = group(BeliefConfig)
    optimizer: OptimizerConfig = group(OptimizerConfig)
    engine: EngineConfig = group(EngineConfig)


# What may differ when a run goes on: none of it changes what has been learnt so far.
CHANGEABLE = (*ENGINE_CHANGEABLE, "run_dir", "probe_images", "data.workers")


class Pretraining(Learner):
    """Draws views of a batch of images on its device, and gives them to the method."""

    def __init__(self, method: Method, views: Views):
        super().__init__()
        self.method, self.views = method, views

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.method(self.views(batch))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.method.parameter_groups()

    def after_update(self, update: int) -> None:
        self.method.after_update(update)


def check(config: PretrainConfig) -> Pretraining:
    """Refuses what cannot work, before any image is read; the learner, freshly made from the seed.

    Raises:
        ConfigError: the first option found wrong.
    """
    for name, low in (("batch_size", 2), ("chunk", 1), ("probe_images", 10)):
        require_at_least(low, config, name)
    require_seed(config)
    for part in (config.data, config.augment, config.optimizer, config.engine):
        part.check()
    if config.engine.compile and config.chunk is not None:
        raise ConfigError(
            f"chunk={config.chunk} must be null with engine.compile=true, which cannot follow what is "
            "encoded twice"
        )
    if config.method.name not in METHODS:
        raise ConfigError(f"method={config.method.name} must be one of {', '.join(METHODS)}")
    ranks = config.engine.devices * config.engine.nodes
    require_shares("batch_size", config.batch_size, ranks)
    torch.manual_seed(config.seed)
    size = config.data.image_size
    encoder = build_encoder(config.encoder, config.data.channels, size)
    updates = config.engine.updates
    method = build_method(config.method, config.objective, config.belief, encoder, updates, config.chunk)
    if config.augment.local_views and not method.takes_local_views:
        raise ConfigError(
            f"augment.local_views={config.augment.local_views} must be 0 with method={config.method.name}, "
            "which looks at none"
        )
    local = config.augment.local_size
    if config.augment.local_views and local not in (None, size) and not encoder.any_size:
        raise ConfigError(
            f"augment.local_size={local} must be {size}: encoder={config.encoder.name} takes one size alone"
        )
    patch = getattr(encoder, "patch", 1)
    if config.augment.local_views and (local or size // 2) % patch:
        raise ConfigError(
            f"augment.local_size={local} must be a multiple of the encoder's patch of {patch} pixels"
        )
    views = Views(config.augment, method.views, size // 2 if encoder.any_size else size)
    learner = Pretraining(method, views)
    if ranks > 1:
        over_ranks(learner)
    return learner


def run_path(config: PretrainConfig) -> Path:
    """Where the run writes."""
    if config.run_dir is not None:
        return Path(config.run_dir)
    data = config.data.task.replace("/", "-") if config.data.name == "frames" else config.data.name
    words = [config.method.name]
    if "gje" in config.method.name:
        words += [config.objective.name, config.belief.name]
    return Path("runs/pretrain") / data / f"{'-'.join(words)}-{config.encoder.name}-seed{config.seed}"


def pretrain(config: PretrainConfig) -> int:
    """Pretrain as `config` says, or go on with the run in its directory; the exit status."""
    require_groups(config)
    config.engine.check()
    set_threads(config.engine.threads)
    keep_freed_memory()
    learner = check(config)
    engine = config.engine
    fabric = make_fabric(engine.device, engine.devices, engine.nodes, engine.precision)
    fabric.launch()
    silence(fabric)
    data = load_images(config.data, config.seed, make_env)
    batches = ShuffledBatches(
        data.train.pixels, config.batch_size, config.seed, fabric.global_rank, fabric.world_size
    )
    learner.method.centre_on(data.train.spaced(CENTRING_IMAGES).pixels)
    path = run_path(config)
    sources = told_apart(config.data, data)
    with (
        open_run(
            fabric,
            path,
            plain_value(config),
            changeable=CHANGEABLE,
            sources=sources,
            defaults=plain_value(PretrainConfig()),
        ) as run,
        stop_on_signals() as stop,
    ):
        training = Engine(
            learner,
            batches,
            config=engine,
            fabric=fabric,
            run=run,
            optimizer=config.optimizer.make,
            schedule=warm_cosine(engine.updates, round(config.optimizer.warmup * engine.updates)),
            seed=config.seed,
            evaluate=partial(evaluate, learner, data, config.probe_images, fabric),
            report=lambda running: write_report(path, running=running),
            samples=(config.batch_size, "images"),
        )
        if training.resumed_from is None:
            training.evaluation_owed = True  # of the untrained encoder, to compare with
        training.announce(
            f"{len(data.train):,} images to learn from, {len(data.test):,} held out; "
            f"{sum(p.numel() for p in learner.method.encoder.parameters()):,} parameters of the encoder\n"
            + taught(config)
            + length(config, len(data.train))
        )
        finished = training.train(stop)
        if finished and fabric.is_global_zero:
            export(learner.method, config, data, path)
            print(f"report: {run.report}\nencoder: {path / 'encoder'}")
            try:
                print(f"probe: {probe_report(path, data, config, fabric, stop)}")
            except Stopped:
                print("the probe was left; the same command makes it", file=sys.stderr)
                finished = False
    return 0 if finished else stop.status


def taught(config: PretrainConfig) -> str:
    """What the method's objective is, with what stands for options left open: a line, where it has one."""
    if "objective" not in method_options(config.method.name):
        return ""
    told = objective_of(config.method, config.objective, config.belief)
    words = " ".join([told.pop("name"), *(f"{name}={value}" for name, value in told.items())])
    return f"objective {words}, belief {config.belief.name}\n"


def epochs(config: PretrainConfig, images: int) -> float:
    """How often the whole run learns from each of so many images."""
    return config.engine.updates * config.engine.accumulate * config.batch_size / images


def length(config: PretrainConfig, images: int) -> str:
    """How long the run is, and a warning where that is hardly enough to learn from so many images."""
    found = epochs(config, images)
    told = f"{config.engine.updates:,} updates, {found:,.1f} epochs of these images"
    if found >= FEW_EPOCHS:
        return told
    enough = math.ceil(FEW_EPOCHS * config.engine.updates / found)
    return f"warning: {told}, is short; engine.updates={enough} would be {FEW_EPOCHS} epochs"


def evaluate(
    learner: Pretraining, data: Split, probe_images: int, fabric: Fabric, update: int, stop: Stop
) -> dict[str, Any]:
    """A row of metrics: what the encoder holds, and whether its beliefs are calibrated.

    Raises:
        Stopped: someone has asked to stop.
    """
    method = learner.method
    train, test = (known(part, probe_images) for part in (data.train, data.test))
    row = evaluate_encoder(method.exported, train, test, fabric.device, fabric.autocast, stop.check)
    if method.predictor is not None:
        views = learner.views(data.test.spaced(BELIEF_IMAGES).pixels.to(fabric.device))
        with fabric.autocast():
            row |= evaluate_beliefs(method.exported, method.predictor, views[0])
    return row


def known(images: Images, most: int) -> Images:
    """At most so many of those with a label, where some have one; else of all; evenly spaced."""
    with_label = labelled(images)
    return images.spaced(most, with_label if len(with_label) else None)


def export(method: Method, config: PretrainConfig, data: Split, path: Path) -> None:
    """Write `encoder/` into the run directory."""
    words = plain_value(config)
    believes = "objective" in method_options(config.method.name)
    source: dict[str, Any] = {"name": config.data.name, "path": config.data.path, "images": len(data.train)}
    if config.data.name == "frames":
        source |= {"task": config.data.task, "frame_stack": config.data.frame_stack}
    provenance = {
        "run": str(path),
        "method": {name: value for name, value in words["method"].items() if value is not None},
        **(
            {
                "objective": objective_of(config.method, config.objective, config.belief),
                "belief": given(config.belief),
            }
            if believes
            else {}
        ),
        "augment": words["augment"],
        "data": source,
        "licence": data.licence,
        "updates": config.engine.updates,
        "epochs": round(epochs(config, len(data.train)), 2),
        "batch_size": config.batch_size,
        "accumulate": config.engine.accumulate,
        "seed": config.seed,
        **origin_of(path),
    }
    Pretrained(method.exported, method.predictor, provenance).save(path / "encoder")


def probe_report(path: Path, data: Split, config: PretrainConfig, fabric: Fabric, stop: Stop) -> Path:
    """What the exported encoder is worth, as `gje-probe encoders` measures it; the path of the page.

    Raises:
        Stopped: someone has asked to stop.
    """
    name = config.data.task if config.data.name == "frames" else config.data.name
    measured = probe_data(data, name, config.probe_images, config.probe_images)
    found = probe_encoder(
        load_pretrained(path / "encoder"),
        with_unlike(measured, UNLIKE_IMAGES),
        device=fabric.device,
        advance=lambda count: stop.check(),
    )
    row = {"encoder": path.name, "path": str(path / "encoder"), **found.row, **origin()}
    folder = path / "probe"
    folder.mkdir(exist_ok=True)
    write_rows(folder / "table.csv", [row])
    text = (path / "config.yaml").read_text(encoding="utf-8")
    return write_tables(folder, [row], {path.name: found.arrays}, text)


def recipe(arguments: Sequence[str]) -> list[str]:
    """The views and the length that photographs need, where `arguments` ask for some and leave these open."""
    chosen = dict(argument.partition("=")[::2] for argument in arguments)
    if chosen.get("data", "frames") == "frames":
        return []
    words = {"augment": RECIPES.get(chosen.get("method", ""), "simclr"), "preset": "photographs"}
    return [f"{group}={choice}" for group, choice in words.items() if group not in chosen]


ERRORS = (BrokenImageError, WorkerError, NonFiniteError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `gje-pretrain`."""
    asked = sys.argv[1:] if arguments is None else list(arguments)
    asked = [*recipe(asked), *asked]
    sys.exit(run_command("pretrain", PretrainConfig, pretrain, ABOUT, arguments=asked, errors=ERRORS))


if __name__ == "__main__":
    main()
