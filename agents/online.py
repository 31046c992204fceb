"""The online loop: act, remember, learn; evaluate and save now and then; go on where it stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.agent import discount_for
from agents.building import load_weights, make_agent
from agents.config import TrainConfig
from agents.evaluation import film_episode, play, summarise
from agents.replay import Replay
from gje_world.plots.report import write_report
from gje_world.training import random_state
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.metrics import MetricsLog
from gje_world.training.progress import TrainingProgress
from gje_world.training.run_directory import RunDirectory, RunDirectoryError
from gje_world.training.signals import Stop

logger = logging.getLogger(__name__)

EPISODE_SEEDS = 1_000_000  # training episodes of one seed; those of evaluation lie beyond them
CENTRING_FRAMES = 1_000  # random-policy observations that set the encoder's mean frame


class NonFiniteError(RuntimeError):
    """A reward or a term of the loss is NaN or infinite; the message names it and the state that was kept."""


# Attributes of `Online` that a checkpoint holds as they are.
PROGRESS = (
    "step",
    "updates",
    "in_episode",
    "episode_return",
    "episode_actions",
    "episode_uncertainty",
    "sums",
    "counts",
)


class Online:
    """One run: an agent, its environment, its replay and its run directory.

    The state of the environment is in no checkpoint: each episode has its own seed, and a resumed run lives
    the episode it was in again, from that seed and the actions it had taken.

    Arguments:
        config: checked by `agents.config.check` first.
        run: the run directory, open.
        env: where the agent learns.
        make_env: makes another one of the same kind, for evaluation.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        env: gymnasium.Env,
        make_env: Callable[[], gymnasium.Env],
    ):
        self.config, self.run, self.env, self.make_env = config, run, env, make_env
        keep_freed_memory()
        set_threads(config.threads)
        self.repeat: int = self.env.get_wrapper_attr("action_repeat")
        self.episode_steps: int | None = self.env.get_wrapper_attr("max_episode_steps")
        self.state_names: tuple[str, ...] = self.env.get_wrapper_attr("state_names")
        self.evaluation_envs: list[gymnasium.Env] = []

        torch.manual_seed(config.seed)
        self.generator = np.random.default_rng(config.seed)
        assert self.env.action_space.shape is not None
        action_dim = self.env.action_space.shape[0]
        discount = config.agent.discount or discount_for(self.episode_steps or 1000)
        self.agent = make_agent(config, action_dim, discount)
        size = config.env.image_size
        if config.replay_capacity is None:
            capacity, slack = self.slots_for(config.steps), 0
        else:
            capacity, slack = config.replay_capacity, self.slots_for(config.checkpoint_every)
        self.replay = Replay(
            run.path / "replay",
            capacity,
            slack,
            (3, size, size),
            action_dim,
            config.env.frame_stack,
        )
        self.step = 0  # env frames
        self.updates = 0
        self.in_episode = False
        self.episode_return = 0.0
        self.episode_actions: list[Tensor] = []  # of the episode being lived
        self.episode_uncertainty: list[float] = []
        self.sums: dict[str, Tensor] = {}  # training metrics since the last row
        self.counts: dict[str, int] = {}
        self.log: MetricsLog

    # ---- the loop ----

    def train(self, stop: Stop | None = None) -> None:
        """Run to `config.steps`, from the newest good checkpoint if there is one.

        Arguments:
            stop: where its `requested` turns true, the run saves and returns.

        Raises:
            NonFiniteError: a loss is NaN or infinite; the last checkpoint is from before that.
            RunDirectoryError: the checkpoint does not fit this run.
        """
        c = self.config
        state = self.load()
        offset = state["metrics_offset"] if state else None
        elapsed = state["elapsed"] if state else 0.0
        with (
            MetricsLog(
                self.run.metrics, self.run.tensorboard, resume_offset=offset, elapsed=elapsed
            ) as self.log,
            TrainingProgress(c.steps, action_repeat=self.repeat, step=self.step) as progress,
        ):
            obs = self.relive_episode() if self.in_episode else None
            while self.step < c.steps:
                obs = self.agent_step(obs)
                self.learn()
                agent_steps = self.step // self.repeat
                if agent_steps % c.log_every == 0:
                    self.log_training(progress.agent_steps_per_second)
                if self.due(c.evaluation.every) or self.step >= c.steps:
                    row = self.evaluate()
                    progress.announce(
                        f"{self.step:,} frames: evaluation return {row['eval/return_mean']:.1f}"
                    )
                if self.due(c.checkpoint_every) or self.step >= c.steps:
                    self.save()
                if obs is None:
                    progress.advance(self.step, episode_return=self.episode_return)
                else:
                    progress.advance(self.step)
                if stop is not None and stop.requested and self.step < c.steps:
                    path = self.save()
                    progress.announce(f"stopped by {stop.signal}; saved {path}; the same command goes on")
                    break
        write_report(self.run.path, running=False)

    def slots_for(self, frames: int) -> int:
        """Replay slots that so many env frames can take: an episode of L agent steps takes L + 1."""
        steps = frames // self.repeat + 1
        return steps + steps // (self.episode_steps or 1) + 2

    def due(self, every: int) -> bool:
        """Whether the last agent step crossed a multiple of `every` env frames."""
        return self.step // every > (self.step - self.repeat) // every

    def agent_step(self, obs: np.ndarray | None) -> np.ndarray | None:
        """One decision and what came of it; `obs` is None between episodes, before and after."""
        if obs is None:
            obs, _ = self.env.reset(seed=self.episode_seed(self.replay.episode + 1))
            self.replay.start(obs[-3:])
            self.agent.reset()
            self.in_episode, self.episode_return = True, 0.0
            self.episode_actions, self.episode_uncertainty = [], []
        if self.step < self.config.prefill:
            low, high = self.env.action_space.low, self.env.action_space.high  # type: ignore[attr-defined]
            action = self.generator.uniform(low, high).astype(np.float32)
        else:
            chosen, _, uncertainty = self.agent.decide(
                torch.as_tensor(obs, device=self.agent.device).unsqueeze(0), explore=True
            )
            action = chosen[0].cpu().numpy()
            self.episode_uncertainty.append(uncertainty.item())
        obs, reward, terminated, truncated, _ = self.env.step(action)
        if not math.isfinite(reward):
            raise self.not_finite(f"the reward of {self.config.task} ({reward})")
        self.episode_actions.append(torch.from_numpy(action))
        self.replay.add(obs[-3:], action, float(reward), terminated)
        self.episode_return += float(reward)
        self.step += self.repeat
        if not (terminated or truncated):
            return obs
        self.in_episode = False
        self.log.log("episode", self.step, self.episode_row())
        return None

    def learn(self) -> None:
        """Gradient steps: `updates_per_step` for every agent step so far, those of the prefill included.

        What the prefill owes is made up at no more than four times the usual pace.
        """
        c = self.config
        if self.step < c.prefill:
            return
        if self.updates == 0:
            self.agent.world.encoder.centre_on(
                self.replay.recent_frames(CENTRING_FRAMES).to(self.agent.device)
            )
        owed = c.updates_per_step * (self.step // self.repeat) - self.updates
        for i in reversed(range(min(owed, 4 * c.updates_per_step))):
            batch = self.replay.sample(self.generator, c.batch_size, c.agent.horizon)
            gauges = i == 0 and (self.step // self.repeat) % c.log_every == 0
            for name, value in self.agent.update(batch.to(self.agent.device), gauges).items():
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
            self.updates += 1
        self.require_finite()

    # ---- what is written ----

    def log_training(self, speed: float) -> None:
        """Log the means of the training metrics since the last such row."""
        if self.sums:
            row = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
            self.log.log("train", self.step, row | {"speed/agent_steps_per_second": speed})
        self.sums, self.counts = {}, {}

    def require_finite(self) -> None:
        """Stop before a loss that is not finite reaches the planner or a checkpoint."""
        if self.sums and not torch.stack(list(self.sums.values())).isfinite().all():
            broken = [name for name, total in self.sums.items() if not total.isfinite()]
            raise self.not_finite(", ".join(broken))

    def not_finite(self, what: str) -> NonFiniteError:
        """The error that names what is not finite and the state to go back to."""
        kept = self.run.checkpoints.paths()
        state = f"the last good state is {kept[-1]}" if kept else "no checkpoint had been written yet"
        return NonFiniteError(f"{what} not finite near step {self.step}; {state}")

    def episode_row(self) -> dict:
        row = {
            "episode/return": self.episode_return,
            "episode/length": self.replay.count - self.replay.first - 1,
            "episode/index": self.replay.episode,
        }
        if self.episode_uncertainty:
            row["planner/uncertainty"] = float(np.mean(self.episode_uncertainty))
        return row

    def evaluate(self) -> dict:
        """Play the evaluation episodes, log what they show, write the film and the report.

        Draws from random states of its own, so that how often a run is evaluated does not change it.
        """
        c = self.config
        while len(self.evaluation_envs) < c.evaluation.episodes:
            self.evaluation_envs.append(self.make_env())
        seeds = [self.episode_seed(EPISODE_SEEDS - 1 - i) for i in range(c.evaluation.episodes)]
        warm_start = self.agent.planner.warm_start
        with torch.random.fork_rng():
            torch.manual_seed(c.seed)
            episodes = play(self.agent, self.evaluation_envs, seeds, self.episode_steps)
        self.agent.planner.warm_start = warm_start
        row = summarise(self.agent, episodes, self.state_names)
        film = self.run.films / f"step_{self.step:09d}.mp4"
        film_episode(film, episodes[0], self.repeat)
        row["eval/film"] = f"films/{film.name}"
        self.log.log("eval", self.step, row)
        write_report(self.run.path, running=self.step < c.steps)
        return row

    def episode_seed(self, index: int) -> int:
        """Seed of this run's episode `index`."""
        return self.config.seed * EPISODE_SEEDS + index

    # ---- what is kept ----

    def save(self):
        """Write a checkpoint; the replay's maps are on the disk before it names their position."""
        self.replay.flush()
        state = {
            "agent": self.agent.state_dict(),
            "optimizer": self.agent.optimizer.state_dict(),
            "warm_start": self.agent.planner.warm_start,
            "action_dim": self.agent.planner.action_dim,
            "discount": self.agent.discount,
            "replay": self.replay.state(),
            "random": random_state.capture(replay=self.generator),
            "progress": {name: getattr(self, name) for name in PROGRESS},
            "metrics_offset": self.log.offset,
            "elapsed": self.log.elapsed,
        }
        return self.run.checkpoints.save(self.step, state)

    def load(self) -> Mapping | None:
        """Take up the newest good checkpoint, if there is any, and return it."""
        found = self.run.checkpoints.load_latest()
        if found is None:
            return None
        state, path = found
        load_weights(self.agent, state, path)
        try:
            self.agent.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise RunDirectoryError(f"{path} is of an agent of another shape ({error})") from error
        warm_start = state["warm_start"]
        self.agent.planner.warm_start = None if warm_start is None else warm_start.to(self.agent.device)
        self.replay.load_state(state["replay"])
        random_state.restore(state["random"], replay=self.generator)
        for name in PROGRESS:
            setattr(self, name, state["progress"][name])
        self.sums = {name: total.to(self.agent.device) for name, total in self.sums.items()}
        logger.info("going on from %s", path)
        return state

    def relive_episode(self) -> np.ndarray | None:
        """Bring the environment to where the checkpoint left it; None where it cannot be brought there."""
        obs, _ = self.env.reset(seed=self.episode_seed(self.replay.episode))
        for action in self.episode_actions:
            obs, *_ = self.env.step(action.numpy())
        if np.array_equal(obs[-3:], self.replay.newest_frame()):
            return obs
        logger.warning("%s does not repeat an episode from its seed; a new episode begins", self.config.task)
        self.in_episode = False
        return None
