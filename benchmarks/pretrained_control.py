"""Does an encoder pretrained on a task's random-policy frames make an agent learn sooner?

    python benchmarks/pretrained_control.py [--task dmc/cartpole-swingup] [--modes finetune frozen]

Runs `gje-pretrain data=frames` once, then `gje-train` with each seed, in `--runs`, one after the other; what
has run is not run again, so an interrupted study goes on. The arms have encoders of one shape: `scratch`, as
`gje-train` makes it; in each mode `pretrained`; and in each mode `untrained`, of fresh weights, exported and
loaded as the pretrained one is, which tells what pretraining does from what its way in does (a linear map on
top, other learning rates).

A row of the CSV is one run: its final return, the mean of its last evaluations (`returns` has all), and the
env frames at which its evaluations first reached 80 % of that, and 80 % of the final return that the runs
from scratch have on average. The env frames that pretraining took, those between two images among them,
stand beside; the columns `…_with_pretraining` count them in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml

from envs import action_repeat_for
from gje_world.networks import make_encoder
from gje_world.pretrained import load_encoder
from gje_world.training.metrics import read_metrics
from gje_world.training.origin import origin_measuring
from gje_world.training.tables import Row, write_rows
from gje_world.world_model import WorldModelConfig

SHARE = 0.8
SCRATCH, PRETRAINED, UNTRAINED = "scratch", "pretrained", "untrained"
LAST = 3  # evaluations that the final return is the mean of
WORLD = WorldModelConfig()  # whose encoder those pretrained are shaped as


def call(module: str, *options: str) -> None:
    """One command, to its end; an interrupted one goes on where it stopped.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([sys.executable, "-m", module, *options], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def evaluations(run: Path) -> list[tuple[int, float]]:
    """Env frames and mean return of each evaluation of a run, in order."""
    rows = read_metrics(run / "metrics.jsonl")
    return [(row["step"], row["eval/return_mean"]) for row in rows if row["kind"] == "eval"]


def final_return(found: Sequence[tuple[int, float]]) -> float:
    """Mean return of the last evaluations."""
    return statistics.mean(value for _, value in found[-LAST:])


def export_untrained(pretrained: Path, folder: Path, seed: int) -> None:
    """An encoder as the one in `pretrained`, of fresh weights; pixels are normalised as there."""
    architecture = json.loads((pretrained / "encoder.json").read_text(encoding="utf-8"))["encoder"][
        "architecture"
    ]
    torch.manual_seed(seed)
    encoder = make_encoder(**architecture)
    encoder.load_state_dict(dict(load_encoder(pretrained).named_buffers()), strict=False)
    encoder.save(folder, method="none", seed=seed)


def frames_to(level: float, found: Sequence[tuple[int, float]]) -> int | None:
    """Env frames of the first evaluation at `level` or above; None where there is none."""
    return next((frames for frames, value in found if value >= level), None)


def pretraining_frames(run: Path) -> int:
    """Env frames that were simulated for the images of a run of `gje-pretrain data=frames`."""
    data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    return data["frames"] * data["every"] * action_repeat_for(data["task"])


def with_pretraining(frames: int | None, before: int) -> int | None:
    """Env frames with those `before` training; None where the level was never reached."""
    return None if frames is None else frames + before


def main(arguments: Sequence[str] | None = None) -> None:
    """Pretrain, train, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="dmc/cartpole-swingup")
    parser.add_argument("--steps", type=int, default=100_000, help="env frames of each run")
    parser.add_argument("--every", type=int, default=10_000, help="env frames between evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", default=["finetune"], choices=["frozen", "finetune", "init"])
    parser.add_argument("--pretrain", nargs="*", default=[], help="further options of gje-pretrain")
    parser.add_argument("--train", nargs="*", default=[], help="further options of every gje-train")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrained_control"))
    parser.add_argument("--csv", type=Path, default=Path("results/pretrained_control.csv"))
    options = parser.parse_args(arguments)

    base = options.runs / options.task.replace("/", "-")
    pretraining = base / "pretraining"
    call(
        "gje_world.pretrain",
        "data=frames",
        f"data.task={options.task}",
        f"run_dir={pretraining}",
        "encoder=conv",
        f"encoder.dim={WORLD.dim}",
        f"encoder.width={WORLD.encoder_width}",
        *options.pretrain,
    )
    exported = pretraining / "encoder"
    encoder = json.loads((exported / "encoder.json").read_text(encoding="utf-8"))
    images = encoder["provenance"]["data"]["images"]
    found: dict[tuple[str, str, int], Path] = {}
    arms = [(SCRATCH, ""), *((arm, mode) for mode in options.modes for arm in (PRETRAINED, UNTRAINED))]
    for arm, mode in arms:
        for seed in options.seeds:
            folder = exported
            if arm == UNTRAINED:
                folder = base / f"untrained-encoder-seed{seed}"
                if not (folder / "encoder.json").exists():  # which is written last
                    export_untrained(exported, folder, seed)
            start = () if arm == SCRATCH else (f"encoder={folder}", f"encoder_mode={mode}")
            run = base / "-".join(filter(None, (arm, mode, f"seed{seed}")))
            common = (f"task={options.task}", f"steps={options.steps}", f"evaluation.every={options.every}")
            call("agents.train", f"run_dir={run}", f"seed={seed}", *common, *options.train, *start)
            found[arm, mode, seed] = run
            if (
                arm != SCRATCH or seed == options.seeds[-1]
            ):  # what has run is in the table, also if no more does
                write_rows(options.csv, table(found, options, images, pretraining_frames(pretraining)))
    for row in table(found, options, images, pretraining_frames(pretraining)):
        print(
            f"{row['encoder']:<10} {row['mode']:<8} seed {row['seed']}: final {row['final_return']}, "
            f"80 % of its own at {row['frames_to_80_own']}, of scratch's at "
            f"{row['frames_to_80_scratch']} frames, after {row['pretraining_env_frames']} of pretraining"
        )


def table(
    found: Mapping[tuple[str, str, int], Path],
    options: argparse.Namespace,
    images: int,
    before: int,
) -> list[Row]:
    """A row of each run found by arm, mode and seed, with its own commit; those from scratch are all there.

    Arguments:
        images: that the encoder was pretrained on.
        before: env frames that they took.
    """
    evaluated = {key: evaluations(run) for key, run in found.items()}
    reference = statistics.mean(final_return(evaluated[SCRATCH, "", seed]) for seed in options.seeds)
    rows: list[Row] = []
    for (arm, mode, seed), values in evaluated.items():
        took = before if arm == PRETRAINED else 0
        final = final_return(values)
        to_own, to_scratch = (frames_to(SHARE * level, values) for level in (final, reference))
        rows.append(
            {
                "task": options.task,
                "encoder": arm,
                "mode": mode,
                "seed": seed,
                "frames": options.steps,
                "pretraining_images": images if arm == PRETRAINED else 0,
                "pretraining_env_frames": took,
                "final_return": round(final, 1),
                "frames_to_80_own": to_own,
                "frames_to_80_scratch": to_scratch,
                "frames_to_80_own_with_pretraining": with_pretraining(to_own, took),
                "frames_to_80_scratch_with_pretraining": with_pretraining(to_scratch, took),
                "evaluation_every": options.every,
                "returns": " ".join(f"{value:.0f}" for _, value in values),  # of each evaluation
                **origin_measuring(found[arm, mode, seed]),
            }
        )
    return rows


if __name__ == "__main__":
    main()
