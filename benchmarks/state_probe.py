"""How much of a task's true state do embeddings hold after a few minutes of world-model training alone?

A proxy, minutes long, for hour-long agent runs: random-policy frames, `--updates` gradient steps of the
objective with no reward and no value, then a ridge regression from embeddings of held-out episodes to the
true state. Prints R² by name.

    python benchmarks/state_probe.py --task dmc/cartpole-swingup --updates 400
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from world_model_alone import SIZE, STACK, learn, random_frames

from gje_world import WorldModel, WorldModelConfig
from gje_world.objectives import make_objective
from gje_world.training.devices import choose_device, keep_freed_memory, set_threads


def main() -> None:
    """Train, probe, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="dmc/cartpole-swingup")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument(
        "--episodes", type=int, default=40, help="random-policy episodes; a quarter is held out"
    )
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--shift", type=int, default=3)
    parser.add_argument("--marginal-weight", type=float, default=1.0)
    parser.add_argument("--resolution", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()

    keep_freed_memory()
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    objective = make_objective(
        "gje_conditional", options.dim, marginal_weight=options.marginal_weight, resolution=options.resolution
    )
    with tempfile.TemporaryDirectory() as folder:
        frames = random_frames(options.task, options.episodes, Path(folder))
        config = WorldModelConfig(dim=options.dim, encoder_width=options.width)
        world = WorldModel(config, (3 * STACK, SIZE, SIZE), frames.action_dim)
        found = learn(
            world,
            objective,
            frames,
            updates=options.updates,
            seed=options.seed,
            shift=options.shift,
            device=choose_device("auto"),
        )
    gauges = {name: round(value, 2) for name, value in found.gauges.items()}
    print(
        f"{options.task}: {options.updates} updates in {found.seconds:.0f} s, nll {found.loss:.3f}, {gauges}"
    )
    for name, value in zip(frames.names, found.r2.tolist(), strict=True):
        print(f"  {name:<16} {value:6.3f}")
    print(f"  {'mean':<16} {float(found.r2.nanmean()):6.3f}")


if __name__ == "__main__":
    main()
