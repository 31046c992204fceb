"""`gje-video benchmark`: every predictor in every world of known law, in one table and on one page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gje_world.data.simulated import Simulated
from gje_world.data.world import World
from gje_world.data.worlds import WORLDS, make_world
from gje_world.evaluation.futures import (
    CONTEXT,
    HORIZON,
    SHOWN,
    Predictor,
    PredictorError,
    Question,
    Scores,
    ask,
    score,
    score_oracle,
)
from gje_world.evaluation.futures_baselines import NearestNeighbours
from gje_world.evaluation.scores import LEVELS
from gje_world.networks import ConvEncoder
from gje_world.options import ConfigError, option, plain_value, require_at_least, require_some
from gje_world.plots.futures import portrait_path, write_report
from gje_world.training.atomic import replacing
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.origin import origin
from gje_world.training.run_directory import RunDirectory
from gje_world.training.suite import fill_table
from gje_world.training.tables import Row, read_rows, write_markdown, write_rows
from gje_world.video.futures_models import (
    BELIEFS,
    PART,
    Recipe,
    VideoPredictor,
    around,
    calibrate_beliefs,
    embed_episodes,
    episodes_and_states,
    first_episodes,
    learn_beliefs,
    learn_encoder,
)
from gje_world.video.own_predictors import code_of, maker

SIMULATED = {"cartpole": "dmc/cartpole-swingup", "reacher": "dmc/reacher-easy"}
NAMES = (*WORLDS, *SIMULATED)
UNLEARNT = ("oracle", "nearest_neighbour")
MOST_NEIGHBOURS = 10_000  # training episodes among which they are looked for
PREDICTORS = (
    "oracle",
    "mixture",
    "low_rank_mixture",
    "diagonal",
    "flow",
    "squared_error",
    "nearest_neighbour",
)
BY_DEFAULT = ("oracle", "mixture", "squared_error", "nearest_neighbour")
KEY = ("world", "predictor", "seed")
BINS = 10  # of the PIT histogram of each step ahead
KINDS = {"seed": int, "step": int} | dict.fromkeys(
    ("world", "predictor", "made_by", "command", "commit", "machine"), str
)

BENCHMARK_ABOUT = """
gje-video benchmark: several futures of worlds whose law is known, predicted, and held against the truth.

Each row of table.csv is one predictor in one world: share of the ways found, of draws on any way, total
variation of their probabilities, energy score over the true law's, coverage errors. docs/futures_card.md
defines all. Results stand in the run directory: table.csv, steps.csv (each step ahead), table.md,
report.html, plots/. The same command on the same run directory goes on where it stopped.

  gje-video benchmark                                             all worlds: about three hours of one core
  gje-video benchmark worlds=[junction_2,coin] predictors=[mixture,oracle]
  gje-video benchmark seeds=3                                     three models of each
  gje-video benchmark predictors=[oracle,mine:make]               your own: make(world, seed) of mine.py;
                                                                  measured anew when that file has changed

Worlds: {worlds}
Predictors: {predictors}
""".format(worlds=", ".join(NAMES), predictors=", ".join(PREDICTORS)).strip()


@dataclass
class BenchmarkConfig:
    """Options of `gje-video benchmark`."""

    run_dir: str = option("runs/futures", "where all is written")
    worlds: list[str] | None = option(None, "some of the worlds; null: all")
    predictors: list[str] | None = option(
        None, f"of those above, or module:function of your own; null: {', '.join(BY_DEFAULT)}"
    )
    seeds: int = option(1, "models of each kind in each world, with seeds from 1 on")
    image_size: int = option(32, "height and width of the frames in pixels")
    contexts: int | None = option(None, "contexts scored on; null: 2,048, as the benchmark has it")
    episodes: int | None = option(
        None, f"training episodes of each world; null: {World.episodes:,}, simulated {Simulated.episodes:,}"
    )
    encoder_updates: int = option(Recipe.encoder_updates, "gradient steps of the encoder")
    updates: int = option(Recipe.updates, "gradient steps of a predictor")
    threads: int | None = option(None, "CPU threads; null: all cores")


# What may differ when a benchmark goes on: none of it changes a row that is done.
CHANGEABLE = ("run_dir", "worlds", "predictors", "seeds", "threads")


def check(config: BenchmarkConfig) -> dict[str, Simulated]:
    """Refuses what cannot work, before any work; the simulated worlds asked for, which had to be made for it.

    Raises:
        ConfigError: the first option found wrong.
    """
    require_at_least(1, config, "seeds", "episodes", "encoder_updates", "updates", "threads")
    require_at_least(2, config, "contexts")
    require_some(config, "worlds", NAMES)
    own = [name for name in config.predictors or () if ":" in name]
    require_some(config, "predictors", (*PREDICTORS, *own))
    for name in own:
        maker(name)
    try:
        make_world("bounce", config.image_size)
    except ValueError as error:
        raise ConfigError(f"image_size={config.image_size}: {error}") from error
    simulated = {}
    for name in config.worlds or NAMES:
        if name in SIMULATED:
            try:
                simulated[name] = simulated_world(name, config.image_size)
            except RuntimeError as error:
                raise ConfigError(f"worlds=[{name}] cannot be drawn: {error}") from error
    return simulated


def benchmark(config: BenchmarkConfig) -> int:
    """Learns and scores what is not yet done, row by row; the exit status."""
    made_by = {name: code_of(name) for name in config.predictors or ()}  # before any is imported
    simulated = check(config)
    set_threads(config.threads)
    keep_freed_memory()
    worlds, predictors = config.worlds or list(NAMES), config.predictors or list(BY_DEFAULT)
    wanted = [
        (world, predictor, seed)
        for world in worlds
        for seed in range(1, config.seeds + 1)
        for predictor in sorted(predictors, key=lambda name: ":" not in name)  # one's own errors come first
        if predictor not in UNLEARNT or seed == 1
    ]
    # what is asked for stands in the configuration; how many episodes null is, here
    recipe = {name: value for name, value in asdict(Recipe()).items() if not hasattr(config, name)}
    default = {"generated": World.episodes, "simulated": Simulated.episodes}
    sources = {"recipe": recipe | {"beliefs": BELIEFS, "episodes": config.episodes or default}}
    with RunDirectory.open(
        config.run_dir, plain_value(config), changeable=CHANGEABLE, sources=sources
    ) as run:
        (run.path / "portraits").mkdir(exist_ok=True)
        bench = Bench(config, run.path, simulated, made_by)
        rows = fill_table(
            run.path / "table.csv",
            wanted,
            KEY,
            bench.row,
            updates=config.encoder_updates + config.updates,
            told=told,
            kinds=KINDS,
            holds=lambda row: row.get("made_by") == made_by.get(row["predictor"]),
        )
        order = {name: place for place, name in enumerate((*NAMES, *PREDICTORS))}
        rows.sort(
            key=lambda row: (
                order[row["world"]],
                order.get(row["predictor"], len(order)),  # those of others stand last
                row["predictor"],
                row["seed"],
            )
        )
        write_markdown(run.path / "table.md", rows, COLUMNS)
        steps = read_rows(run.path / "steps.csv", KINDS)
        report = write_report(run.path, rows, steps, run.config.read_text(encoding="utf-8"))
    print(f"report: {report}")
    return 0


class Seen(NamedTuple):
    """What models of one world and seed have in common."""

    frames: Tensor  # of the first part of the training episodes
    encoder: ConvEncoder
    z: Tensor  # [N, T, D], of all training episodes
    seconds: float  # of the CPU, that all this took


class Bench:
    """Makes predictors and scores them; what those of one world have in common is made once.

    Arguments:
        folder: the run directory, where the scores of each step ahead and portraits are kept.
        simulated: simulated worlds by name, where they are at hand.
        made_by: what tells the code of predictors of one's own (`code_of`), by name.
    """

    def __init__(
        self,
        config: BenchmarkConfig,
        folder: Path,
        simulated: dict[str, Simulated] | None = None,
        made_by: dict[str, str | None] | None = None,
    ):
        self.config, self.folder = config, folder
        self.simulated, self.made_by = simulated or {}, made_by or {}
        self._world: tuple[str, World, Question] | None = None
        self._seen: tuple[tuple[str, int], Seen] | None = None

    def row(self, name: str, predictor: str, seed: int, advance: Callable[[], None]) -> Row:
        """The row of a predictor in the world called `name`; what it scores at each step is kept before."""
        world, question = self.ask(name)
        seconds = None
        if predictor == "oracle":
            scores = score_oracle(world, question)
        else:
            torch.manual_seed(seed)  # of one's own predictor, which may draw its weights
            made, seconds = self.predictor(name, world, predictor, seed, advance)
            torch.manual_seed(seed)  # of its draws, whatever was made or drawn before in this process
            try:
                scores = score(world, made, question)
            except PredictorError as error:
                raise ConfigError(f"predictors=[{predictor}]: {error}") from error
        key = dict(zip(KEY, (name, predictor, seed), strict=True))
        save_portrait(portrait_path(self.folder, name, predictor, seed), scores, question)
        keep_steps(self.folder / "steps.csv", key, scores)
        row: Row = key | {column: rounded(value) for column, value in scores.row.items()}
        row["training_cpu_seconds"] = None if seconds is None else round(seconds, 1)
        return row | {"made_by": self.made_by.get(predictor)} | origin()

    def ask(self, name: str) -> tuple[World, Question]:
        if self._world is None or self._world[0] != name:
            world = self.simulated.get(name) or generated_or_simulated(name, self.config.image_size)
            self._world = (name, world, ask(world, contexts=self.config.contexts))
        return self._world[1:]

    def predictor(
        self, name: str, world: World, predictor: str, seed: int, advance: Callable[[], None]
    ) -> tuple[Predictor, float]:
        """A predictor, and the seconds of the CPU that making it took: of its encoder, its data, itself."""
        start = time.process_time()
        if ":" in predictor:
            return maker(predictor)(world, seed), time.process_time() - start
        c = self.config
        count = c.episodes or world.episodes
        if predictor == "nearest_neighbour":
            count = min(count, MOST_NEIGHBOURS)
            parts = range(-(-count // PART))
            clips = [around_decision(world, *episodes_and_states(world, seed, part)) for part in parts]
            neighbours = NearestNeighbours(torch.cat(clips)[:count], HORIZON)
            return neighbours, time.process_time() - start
        recipe = Recipe(
            belief=predictor, episodes=count, encoder_updates=c.encoder_updates, updates=c.updates
        )
        seen = self.seen(name, world, recipe, seed, advance)
        start = time.process_time()
        model = around(seen.encoder, seen.frames, recipe, seed)
        learn_beliefs(model, seen.z, recipe, seed, advance)
        calibrate_beliefs(model, world, recipe, seed)
        return VideoPredictor(model), seen.seconds + time.process_time() - start

    def seen(self, name: str, world: World, recipe: Recipe, seed: int, advance: Callable[[], None]) -> Seen:
        """Encoder and embeddings that all beliefs about a world are learnt with; made once for a seed."""
        if self._seen is None or self._seen[0] != (name, seed):
            start = time.process_time()
            print(f"{name}: {recipe.episodes:,} episodes are made to learn from", file=sys.stderr)
            frames = first_episodes(world, recipe, seed)
            encoder = learn_encoder(frames, recipe, seed, advance)
            model = around(encoder, frames, recipe, seed)
            z = embed_episodes(model, frames, world, recipe, seed)
            self._seen = ((name, seed), Seen(frames, encoder, z, time.process_time() - start))
        return self._seen[1]


def generated_or_simulated(name: str, size: int) -> World:
    """The world called `name`, of whichever kind it is."""
    return simulated_world(name, size) if name in SIMULATED else make_world(name, size)


def simulated_world(name: str, size: int) -> Simulated:
    """A task of DM Control under a random policy, scored in its positions.

    The core imports no environments; this entry point, which makes one by its name, must, inside a function.
    """
    from envs.simulator import Simulator

    simulator = Simulator(SIMULATED[name], size)
    scored = tuple(word for word in simulator.observation_names if word.startswith("position"))
    return Simulated(simulator, size, scored)


def around_decision(world: World, frames: Tensor, states: np.ndarray) -> Tensor:
    """Of episodes the windows that a predictor is asked about, `[N, CONTEXT + HORIZON, C, H, W]`."""
    window = world.decision(states)[:, None] + np.arange(1 - CONTEXT, HORIZON + 1)
    return frames[torch.arange(len(frames))[:, None], torch.from_numpy(window)]


def save_portrait(path: Path, scores: Scores, question: Question) -> None:
    """Keeps draws `[DRAWS, H, SHOWN, V]`, and where the ways lead `[H, SHOWN, K, V]`, to be drawn later."""
    places = scores.shown.new_zeros(0) if question.places is None else question.places[:, :SHOWN]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, draws=scores.shown.numpy(), places=places.numpy())


def keep_steps(table: Path, key: Row, scores: Scores) -> None:
    """Writes the scores of each step ahead into `table`, in the place of those it has by the same `key`."""
    kept = [row for row in read_rows(table, KINDS) if any(row[name] != key[name] for name in key)]
    for step, ranks in enumerate(scores.pit):
        row = key | {"step": step + 1}
        row |= {name: rounded(values[step]) for name, values in scores.steps.items()}
        shares = ranks.flatten().histc(BINS, 0, 1) / ranks.numel()
        kept.append(row | {f"pit_{place}": rounded(float(share)) for place, share in enumerate(shares)})
    write_rows(table, kept)


def rounded(value: float | None) -> float | None:
    """A score as tables have it."""
    return None if value is None else round(value, 6)


def percent(name: str) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{100 * row[name]:.1f} %"


def number(name: str) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name]:.3f}"


def worst_coverage(step: int) -> Callable[[Row], str]:
    def tell(row: Row) -> str:
        error, level = max((row[f"coverage_error_{100 * level:.0f}_{step}"], level) for level in LEVELS)
        return f"{100 * error:.1f} ± {100 * row[f'coverage_se_{100 * level:.0f}_{step}']:.1f}"

    return tell


def minutes(row: Row) -> str:
    seconds = row["training_cpu_seconds"]
    return "–" if seconds is None else f"{seconds / 60:.1f}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "world": lambda row: row["world"],
    "predictor": lambda row: row["predictor"],
    "seed": lambda row: str(row["seed"]),
    "probe error": number("probe_rmse"),
    "recall": percent("recall"),
    "precision": percent("precision"),
    "total variation": number("total_variation"),
    "NLL gap, nats": number("nll_gap"),
    "energy score / oracle's, 1 step": number("energy_ratio_1"),
    f"energy score / oracle's, {HORIZON} steps": number(f"energy_ratio_{HORIZON}"),
    "worst coverage error, points, 1 step": worst_coverage(1),
    f"worst coverage error, points, {HORIZON} steps": worst_coverage(HORIZON),
    "training, CPU minutes": minutes,
}


def told(row: Row) -> str:
    """A row in a line, for who watches."""
    return " · ".join(f"{title} {tell(row)}" for title, tell in COLUMNS.items())
