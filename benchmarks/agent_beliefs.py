"""Which belief holds the errors of an agent's dynamics? Heads of every kind on the features of one run.

The run's encoder and dynamics are held fixed. Of what is in its replay, the last whole episodes are held
out; from embeddings of the others, not shifted, each head learns the change to the next by likelihood. So
the families of distributions are compared, not what an encoder would make of each.

    python benchmarks/agent_beliefs.py RUN_DIR --csv results/agent_beliefs.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import parser, write_csv
from torch import Tensor

import agents
from agents.agent import Agent, stack_frames
from agents.building import make_env
from agents.experience import replay_size
from agents.loading import load_config
from agents.replay import Replay
from gje_world.beliefs import make_head, unit_scale_options
from gje_world.evaluation import NOMINAL, observed_coverage
from gje_world.evaluation.scores import LEVELS
from gje_world.training.checkpoint import CheckpointStore
from gje_world.training.devices import set_threads
from gje_world.training.origin import origin

BELIEFS: dict[str, dict[str, Any]] = {
    "diagonal": {"name": "diagonal"},
    "student_t": {"name": "student_t"},
    "low_rank, 4": {"name": "low_rank", "rank": 4},
    "low_rank, 12": {"name": "low_rank", "rank": 12},
    "full": {"name": "full"},
    "mixture of 4": {"name": "mixture", "components": 4},
}
LR, BATCH, AT_ONCE = 1e-3, 512, 128


class Steps(NamedTuple):
    """Transitions of some episodes."""

    features: Tensor  # [N, F], of the dynamics
    change: Tensor  # [N, D], of the embedding


@torch.no_grad()
def steps_of(agent: Agent, replay: Replay, starts: np.ndarray) -> Steps:
    """The transitions that begin at slots `starts`, which must lie in an episode with their next."""
    features, change = [], []
    for part in np.array_split(starts, -(-len(starts) // AT_ONCE)):
        batch = replay.gather(part, 1)
        z, z_next = agent.embed(stack_frames(batch.frames, replay.frame_stack))
        features.append(agent.world.features(z, batch.action[0]))
        change.append(z_next - z)
    return Steps(torch.cat(features), torch.cat(change))


def split(replay: Replay, held_out: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts of transitions: at most so many to learn from, and all of the last `held_out` whole episodes."""
    episode = np.asarray(replay.maps["episode"])[: replay.count]
    starts = np.flatnonzero(episode[:-1] == episode[1:])
    whole = episode.max() - 1  # the newest may still go on
    tested = (episode[starts] > whole - held_out) & (episode[starts] <= whole)
    learnt = starts[episode[starts] <= whole - held_out]
    return np.random.default_rng(0).permutation(learnt)[:most], starts[tested]


def row_of(options: dict[str, Any], learnt: Steps, held_out: Steps, updates: int) -> dict[str, float]:
    """Scores on held-out episodes of a head that learnt from the others."""
    torch.manual_seed(0)
    dim = learnt.change.shape[-1]
    head = make_head(options["name"], learnt.features.shape[-1], dim, **unit_scale_options(**options))
    optimizer = torch.optim.Adam(head.parameters(), lr=LR)
    for _ in range(updates):
        rows = torch.randint(len(learnt.change), (BATCH,))
        loss = -head(learnt.features[rows]).log_prob(learnt.change[rows]).mean() / dim
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        belief = head(held_out.features)
        mass = belief.coverage(held_out.change)
        nll = -belief.log_prob(held_out.change).mean() / dim
        error = (belief.mean - held_out.change).square().mean().sqrt()
    gap = (observed_coverage(mass) - torch.tensor(NOMINAL)).abs().mean()
    observed = observed_coverage(mass, LEVELS).tolist()
    found = {
        "learnt_nll": float(loss.detach()),
        "nll": float(nll),
        "rmse": float(error),
        "calibration_gap": float(gap),
    }
    return found | {
        f"covered_{100 * level:.0f}": share for level, share in zip(LEVELS, observed, strict=True)
    }


def main() -> None:
    """Embed, learn every head, and print and write its row."""
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="run directory of gje-train, with its replay")
    options.add_argument("--updates", type=int, default=800, help="gradient steps of a head")
    options.add_argument("--episodes", type=int, default=6, help="whole episodes held out")
    options.add_argument("--most", type=int, default=5_000, help="transitions learnt from")
    arguments = options.parse_args()
    set_threads(1)
    config, agent = load_config(arguments.run), agents.load(arguments.run, device="cpu")
    env = make_env(config)
    size = replay_size(config, env)
    env.close()
    found = CheckpointStore(arguments.run / "checkpoints").load_latest()
    assert found is not None
    replay = Replay(arguments.run / "replay", *size, config.env.frame_stack)
    replay.load_state(found[0]["replay"])
    learnt, held_out = (
        steps_of(agent, replay, part) for part in split(replay, arguments.episodes, arguments.most)
    )
    about = {"task": config.task, "frames": found[0]["progress"]["step"], "steps": len(held_out.change)}
    rows = []
    for name, each in BELIEFS.items():
        scores = row_of(each, learnt, held_out, arguments.updates)
        rows.append(about | {"belief": name} | {k: round(v, 3) for k, v in scores.items()} | origin())
        print({k: v for k, v in rows[-1].items() if k in {"belief", *scores}}, flush=True)
    if arguments.csv is not None:
        write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
