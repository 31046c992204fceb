"""Which of {marginal term, stop-gradient, momentum target} keeps embeddings from collapsing?

World-model training alone, with conditional GJE, on random-policy frames of a DM Control task: every marginal
term with every kind of target. A study that was stopped goes on where its CSV ends.

    python benchmarks/collapse_study.py --csv results/collapse.csv --plot results/collapse.png
"""

from __future__ import annotations

import csv
import tempfile
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from measure import parser, write_csv
from rich.progress import Progress
from world_model_alone import SIZE, STACK, learn, random_frames

from gje_world import WorldModel, WorldModelConfig
from gje_world.objectives import MARGINALS, TARGETS, make_objective
from gje_world.plots.style import styled
from gje_world.training.devices import choose_device, keep_freed_memory, set_threads

SHOWN = {
    "probe_r2": "state probe, mean R²",
    "effective_rank": "effective rank",
    "std": "standard deviation",
}
KEY = ("task", "marginal", "target", "seed", "updates")


@styled
def draw(rows: list[dict[str, str]], path: Path) -> None:
    """A panel for each measure: a group of bars for each marginal term, a colour for each kind of target."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for panel, (name, label) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
        for place, target in enumerate(TARGETS):
            for group, marginal in enumerate(MARGINALS):
                found = [
                    float(row[name]) for row in rows if (row["marginal"], row["target"]) == (marginal, target)
                ]
                at = group + 0.27 * (place - 1)
                if found:
                    panel.bar(at, sum(found) / len(found), 0.25, color=f"C{place}", alpha=0.5)
                    panel.plot([at] * len(found), found, ".", color=f"C{place}")
        panel.set_xticks(range(len(MARGINALS)), [word.replace("_", "\n") for word in MARGINALS])
        panel.set_title(label)
    for place, target in enumerate(TARGETS):
        panel.bar(0, 0, color=f"C{place}", label=f"{target.replace('_', '-')} target")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=len(TARGETS))
    figure.savefig(path, dpi=100)


def main() -> None:
    """Learn what is not yet learnt, print a table, and write it and the figure where asked."""
    options = parser(__doc__)
    options.add_argument("--plot", type=Path, help="also draw the figure here")
    options.add_argument("--task", default="dmc/cartpole-swingup")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--updates", type=int, default=400)
    options.add_argument("--episodes", type=int, default=40, help="random-policy; a quarter is held out")
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()
    keep_freed_memory()
    set_threads(arguments.threads)
    device = choose_device("auto")
    rows: list[dict] = []
    if arguments.csv is not None and arguments.csv.exists():
        with arguments.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[name] for name in KEY) for row in rows}
    grid = list(product(range(1, arguments.seeds + 1), MARGINALS, TARGETS))
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        frames = random_frames(arguments.task, arguments.episodes, Path(folder))
        bar = progress.add_task("updates", total=len(grid) * arguments.updates)
        for seed, marginal, target in grid:
            cell = dict(
                zip(KEY, (arguments.task, marginal, target, str(seed), str(arguments.updates)), strict=True)
            )
            if tuple(cell.values()) in done:
                progress.advance(bar, arguments.updates)
                continue
            torch.manual_seed(seed)
            config = WorldModelConfig()
            objective = make_objective(
                "gje_conditional", config.dim, marginal=marginal, target=target, resolution=0.35
            )
            found = learn(
                WorldModel(config, (3 * STACK, SIZE, SIZE), frames.action_dim),
                objective,
                frames,
                updates=arguments.updates,
                seed=seed,
                shift=3,
                device=device,
                advance=lambda: progress.advance(bar),
            )
            measured = {
                "probe_r2": float(found.r2.nanmean()),
                "effective_rank": found.gauges["embedding/effective_rank"],
                "std": found.gauges["embedding/std"],
                "loss": found.loss,
            }
            rows.append(cell | {name: f"{value:.4g}" for name, value in measured.items()})
            progress.console.print("  ".join(rows[-1].values()), highlight=False)
            if arguments.csv is not None:
                write_csv(arguments.csv, rows)
    if arguments.plot is not None:
        draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
