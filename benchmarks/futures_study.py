"""What keeps a two-way branch in the embedding? The encoder is learnt in several ways, the rest in one.

With each encoder held fixed, the same mixture belief is fitted to its embeddings and scored as the
multiple-futures benchmark does, after other contexts than it asks about. A study that was stopped goes on
where its CSV ends.

    python benchmarks/futures_study.py --csv results/futures_study.csv --plot results/futures_study.png

Without beliefs it tells how well the world's variables can be read from what each encoder embeds, such as
before a noisy background, beside the same encoder trained to reconstruct:

    python benchmarks/futures_study.py --probe --world noise --only views dynamics reconstruct --csv FILE
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from measure import parser

from gje_world.data.file_state import digest
from gje_world.data.world import World
from gje_world.data.worlds import WORLDS, make_world
from gje_world.evaluation.futures import HORIZON, ask, fit_probe, score
from gje_world.plots.style import styled
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.origin import origin
from gje_world.training.suite import fill_table
from gje_world.training.tables import Row
from gje_world.video.futures_models import (
    Recipe,
    VideoPredictor,
    around,
    first_episodes,
    learn,
    learn_encoder,
)

QUICK = Recipe(episodes=3_000, updates=1_500)
DYNAMICS = replace(QUICK, encoder="dynamics", encoder_resolution=0.1)
ENCODERS: dict[str, Recipe] = {
    "views": QUICK,
    "views, not shifted": replace(QUICK, shift=0),
    "views, not shifted, 48 numbers": replace(QUICK, shift=0, dim=48),
    "dynamics": DYNAMICS,
    "dynamics, stop-gradient": replace(DYNAMICS, objective={"target": "stop_gradient"}),
    "reconstruct": replace(QUICK, encoder="reconstruct"),
    "random": replace(QUICK, encoder="random"),
    "dynamics, resolution 0.5": replace(DYNAMICS, encoder_resolution=0.5),
    "dynamics, SIGReg": replace(DYNAMICS, objective={"marginal": "sigreg", "marginal_weight": 10.0}),
    "dynamics, marginal weight 10": replace(DYNAMICS, objective={"marginal_weight": 10.0}),
    "dynamics, 2 frames": replace(DYNAMICS, frame_stack=2, history=4),
    "dynamics, 4 steps": replace(DYNAMICS, unroll=4),
}
CONTEXTS = 512
SHOWN = {
    "probe_rmse": "probe error",
    "recall": "recall",
    "precision": "precision",
    "total_variation": "total variation",
    "energy_ratio_5": "energy score / oracle's",
}
KEY = ("world", "encoder", "seed")
KINDS = {"seed": int} | dict.fromkeys(("world", "encoder", "recipe", "command", "commit", "machine"), str)
SEED = 7  # of the contexts: not those of the benchmark, whose recipe the study is to choose


@styled
def draw(rows: list[Row], world: str, path: Path) -> None:
    """A panel for each score in a world, a bar for each encoder, a point for each seed."""
    rows = [row for row in rows if row["world"] == world]
    figure = Figure(figsize=(11, 3.0), layout="constrained")
    for panel, (name, label) in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN.items(), strict=True):
        for place, encoder in enumerate(ENCODERS):
            found = [row[name] for row in rows if row["encoder"] == encoder and row.get(name) is not None]
            if found:
                panel.barh(place, sum(found) / len(found), 0.7, color="C0", alpha=0.5)
                panel.plot(found, [place] * len(found), ".", color="C0")
        panel.set_yticks(range(len(ENCODERS)), list(ENCODERS))
        panel.set_title(label)
    panel.invert_yaxis()
    figure.savefig(path, dpi=100)


class Study:
    """Learns by an encoder's recipe in one world, and scores what comes of it.

    Arguments:
        probe: learn and probe encoders alone, without beliefs.
    """

    def __init__(self, world: World, probe: bool):
        self.world = world
        self.question = None if probe else ask(world, SEED, CONTEXTS)

    def row(self, world: str, encoder: str, seed: int, advance: Callable[[], None]) -> Row:
        """The row of an encoder; the world is that of the study."""
        recipe = ENCODERS[encoder]
        start = time.process_time()
        if self.question is None:
            frames = first_episodes(self.world, recipe, seed)
            model = around(learn_encoder(frames, recipe, seed, advance), frames, recipe, seed)
        else:
            model = learn(self.world, recipe, seed, advance)
        seconds = time.process_time() - start
        torch.manual_seed(seed)
        if self.question is None:
            reading = fit_probe(self.world, VideoPredictor(model))
            measured: Row = {"probe_rmse": reading.rmse, "probe_r2": reading.r2}
        else:
            measured = score(self.world, VideoPredictor(model), self.question).row
        told = {name: None if value is None else float(f"{value:.4g}") for name, value in measured.items()}
        told |= {"training_cpu_seconds": round(seconds), "recipe": digest(repr(recipe))}
        return dict(zip(KEY, (world, encoder, seed), strict=True)) | told | origin()


def main() -> None:
    """Learn and score what is not yet done, print each row, and write table and figure where asked."""
    options = parser(__doc__)
    options.set_defaults(csv=Path("runs/futures_study.csv"))
    options.add_argument("--plot", type=Path, help="also draw the figure here")
    options.add_argument("--world", default="junction_2", choices=list(WORLDS))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--probe", action="store_true", help="learn and probe encoders, without beliefs")
    options.add_argument("--only", nargs="*", choices=list(ENCODERS), help="some of the encoders")
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()
    if arguments.seeds >= SEED:
        options.error(f"--seeds {arguments.seeds} must be below {SEED}: contexts scored on are drawn by that")
    keep_freed_memory()
    set_threads(arguments.threads)
    asked = "probe_r2" if arguments.probe else f"energy_ratio_{HORIZON}"
    rows = fill_table(
        arguments.csv,
        [
            (arguments.world, encoder, seed)
            for seed in range(1, arguments.seeds + 1)
            for encoder in arguments.only or ENCODERS
        ],
        KEY,
        Study(make_world(arguments.world, 32), arguments.probe).row,
        updates=QUICK.encoder_updates + (0 if arguments.probe else QUICK.updates),
        told=lambda row: "  ".join(str(value) for value in row.values() if value is not None),
        kinds=KINDS,
        holds=lambda row: (
            row.get(asked) is not None and row.get("recipe") == digest(repr(ENCODERS[row["encoder"]]))
        ),
    )
    if arguments.plot is not None:
        draw(rows, arguments.world, arguments.plot)


if __name__ == "__main__":
    main()
