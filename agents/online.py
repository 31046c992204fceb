"""The online loop: act, remember, learn; evaluate and save now and then; go on where it stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.agent import discount_for
from agents.building import load_weights, make_agent
from agents.config import TrainConfig
from agents.evaluation import film_episode, play, summarise
from agents.experience import EPISODE_SEEDS, Experience, replay_size
from agents.replay import Replay
from agents.surprise import episode_surprise
from gje_world.networks import Encoder
from gje_world.plots.report import write_report
from gje_world.training import random_state
from gje_world.training.devices import keep_freed_memory, set_threads
from gje_world.training.means import RunningMeans, broken_weights, not_finite
from gje_world.training.metrics import MetricsLog
from gje_world.training.progress import TrainingProgress
from gje_world.training.run_directory import RunDirectory, RunDirectoryError
from gje_world.training.signals import Stop, Stopped

logger = logging.getLogger(__name__)

REPORT_AGE = 60  # seconds, after which a checkpoint brings a new report
CENTRING_FRAMES = 1_000  # random-policy observations that set the encoder's mean frame


class Online:
    """One run: an agent, what it lives through, and its run directory, at the newest good checkpoint if any.

    Arguments:
        config: checked by `agents.config.check` first.
        run: the run directory, open.
        env: where the agent learns.
        make_env: makes another one of the same kind, for evaluation.
        encoder: the pretrained one, if `config` asks for one.

    Raises:
        ConfigError: there is no such device.
        DiskSpaceError: the disk has no room for the replay.
        RunDirectoryError, CheckpointError, ReplayError: what is on the disk does not fit this run.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        env: gymnasium.Env,
        make_env: Callable[[], gymnasium.Env],
        encoder: Encoder | None = None,
    ):
        self.config, self.run, self.make_env = config, run, make_env
        keep_freed_memory()
        self.threads = set_threads(config.threads)
        self.repeat: int = env.get_wrapper_attr("action_repeat")
        self.episode_steps: int | None = env.get_wrapper_attr("max_episode_steps")
        self.state_names: tuple[str, ...] = env.get_wrapper_attr("state_names")
        self.evaluation_envs: list[gymnasium.Env] = []

        torch.manual_seed(config.seed)
        self.generator = np.random.default_rng(config.seed)
        size = replay_size(config, env)
        discount = config.agent.discount or discount_for(self.episode_steps or 1000)
        self.agent = make_agent(config, size.action_dim, discount, encoder)
        self.replay = Replay(run.path / "replay", *size, config.env.frame_stack)
        self.experience = Experience(env, self.replay, config.seed)
        self.step = 0  # env frames
        self.updates = 0
        self.evaluation_owed = False  # where a signal came during the evaluation of this step
        self.means = RunningMeans()  # of training metrics since the last row
        self.logged: tuple[int | None, float] = (None, 0.0)  # bytes of metrics and seconds of run so far
        self.log: MetricsLog
        self.reported = time.monotonic()  # when the report was written, or the process began
        self.resumed_from = self.load()

    # ---- the loop ----

    def train(self, stop: Stop | None = None) -> bool:
        """Run to `config.steps`; whether it got there.

        Arguments:
            stop: where its `requested` turns true, the run saves and returns.

        Raises:
            NonFiniteError: a loss is NaN or infinite; the last checkpoint is from before that.
        """
        try:
            return self._train(stop or Stop())
        finally:
            try:
                write_report(self.run.path, running=False)
            except OSError as error:  # such as a full disk: what else went wrong is to be told
                logger.warning("%s was not written: %s", self.run.report, error)

    def _train(self, stop: Stop) -> bool:
        c, (offset, elapsed) = self.config, self.logged
        with (
            MetricsLog(
                self.run.metrics, self.run.tensorboard, resume_offset=offset, elapsed=elapsed
            ) as self.log,
            TrainingProgress(
                c.steps,
                unit="frames",
                work="agent steps",
                work_per_step=1 / self.repeat,
                step=self.step,
                rest_every=c.evaluation.every,
            ) as progress,
        ):
            save_owed = self.evaluation_owed
            try:
                while True:
                    if self.evaluation_owed:
                        with progress.resting():
                            score = self.evaluate(stop)["eval/return_mean"]
                        progress.announce(f"{self.step:,} frames: evaluation return {score:.1f}")
                    if save_owed:
                        self.save()
                        self.report(at_least=REPORT_AGE)
                    if self.step >= c.steps:
                        return True
                    stop.check()
                    self.agent_step()
                    self.learn()
                    if self.step // self.repeat % c.log_every == 0:
                        self.log_training(progress.speed)
                    ended = self.experience.obs is None
                    progress.advance(self.step, note=f"return {self.experience.total:.1f}" if ended else None)
                    self.evaluation_owed = self.due(c.evaluation.every)
                    save_owed = self.due(c.checkpoint_every)
            except Stopped:
                path = self.save()
                progress.announce(f"stopped by {stop.signal}; saved {path}; the same command goes on")
                return False

    def due(self, every: int) -> bool:
        """Whether the last agent step crossed a multiple of `every` env frames, or was the last."""
        return self.step // every > (self.step - self.repeat) // every or self.step >= self.config.steps

    def agent_step(self) -> None:
        """One decision and what came of it."""
        obs = self.experience.obs
        if obs is None:
            obs = self.experience.begin()
            self.agent.reset()
        uncertainty = None
        if self.step < self.config.prefill:
            space = self.experience.env.action_space
            assert isinstance(space, gymnasium.spaces.Box)
            action = self.generator.uniform(space.low, space.high).astype(np.float32)
        else:
            chosen, _, predicted = self.agent.decide(
                torch.as_tensor(obs, device=self.agent.device).unsqueeze(0), explore=True
            )
            action, uncertainty = chosen[0].cpu().numpy(), predicted.item()
        reward = self.experience.act(action, uncertainty)
        if not math.isfinite(reward):
            what = f"the reward of {self.config.task} ({reward})"
            raise not_finite(what, self.step, self.run.checkpoints)
        self.step += self.repeat
        self.agent.terminates |= self.experience.terminated
        if self.experience.obs is None:
            row = self.experience.row()
            if self.updates:
                # by numbers of its own: what is looked at must not change what is learnt
                generator = np.random.default_rng((self.config.seed, self.replay.episode))
                row |= episode_surprise(self.agent, self.replay, generator)
            self.log.log("episode", self.step, row)

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
            self.means.add(self.agent.update(batch.to(self.agent.device), gauges))
            self.updates += 1
        # before it reaches the planner or a checkpoint
        if broken := self.means.broken():
            raise not_finite(", ".join(broken), self.step, self.run.checkpoints)

    # ---- what is written ----

    def log_training(self, speed: float) -> None:
        """Log the means of the training metrics since the last such row."""
        if self.means:
            self.log.log("train", self.step, self.means.take() | {"speed/agent_steps_per_second": speed})

    def evaluate(self, stop: Stop) -> dict[str, Any]:
        """Play the evaluation episodes, log what they show, write the film and the report.

        Draws from random states of its own, so that how often a run is evaluated does not change it.

        Raises:
            Stopped: someone has asked to stop; nothing has changed then.
        """
        c = self.config
        while len(self.evaluation_envs) < c.evaluation.episodes:
            self.evaluation_envs.append(self.make_env())
        last = EPISODE_SEEDS - 1
        seeds = [self.experience.episode_seed(last - i) for i in range(c.evaluation.episodes)]
        warm_start = self.agent.planner.warm_start
        try:
            with random_state.forked(self.agent.device, c.seed):
                episodes = play(self.agent, self.evaluation_envs, seeds, self.episode_steps, stop)
                row = summarise(self.agent, episodes, self.state_names)
        finally:
            self.agent.planner.warm_start = warm_start
        film = self.run.films / f"step_{self.step:09d}.mp4"
        film_episode(film, self.agent, episodes[0], self.repeat)
        row["eval/film"] = f"films/{film.name}"
        self.log.log("eval", self.step, row)
        self.evaluation_owed = False
        self.report()
        return row

    def report(self, at_least: float = 0.0) -> None:
        """Write the report anew where the last one is older than so many seconds."""
        if time.monotonic() - self.reported >= at_least:
            write_report(self.run.path, running=self.step < self.config.steps)
            self.reported = time.monotonic()

    def close(self) -> None:
        """Close the environments."""
        for env in (self.experience.env, *self.evaluation_envs):
            env.close()

    # ---- what is kept ----

    def save(self) -> Path:
        """Write a checkpoint; the replay's maps are on the disk before it names their position.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
        """
        if broken := broken_weights(self.agent):
            raise not_finite(", ".join(broken[:3]), self.step, self.run.checkpoints)
        self.replay.flush()
        progress = {"step": self.step, "updates": self.updates, "means": self.means.state()}
        state = {
            "agent": self.agent.state_dict(),
            "optimizer": self.agent.optimizer.state_dict(),
            "warm_start": self.agent.planner.warm_start,
            "action_dim": self.agent.planner.action_dim,
            "discount": self.agent.discount,
            "replay": self.replay.state(),
            "random": random_state.capture(replay=self.generator),
            "progress": progress | self.experience.state(),
            "evaluation_owed": self.evaluation_owed,
            "metrics_offset": self.log.offset,
            "elapsed": self.log.elapsed,
        }
        return self.run.checkpoints.save(self.step, state)

    def load(self) -> Path | None:
        """Take up the newest good checkpoint, if there is any; its path."""
        found = self.run.checkpoints.load_latest()
        if found is None:
            return None
        state, path = found
        load_weights(self.agent, state, path)
        try:
            self._take_up(state)
        except (KeyError, ValueError) as error:
            raise RunDirectoryError(f"{path} is not of this agent or version ({error})") from error
        return path

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """All of a checkpoint but the weights."""
        self.agent.optimizer.load_state_dict(state["optimizer"])
        warm_start = state["warm_start"]
        self.agent.planner.warm_start = None if warm_start is None else warm_start.to(self.agent.device)
        self.replay.load_state(state["replay"])
        progress = state["progress"]
        self.step, self.updates = progress["step"], progress["updates"]
        self.means.load_state(progress["means"], self.agent.device)
        self.evaluation_owed = state["evaluation_owed"]
        self.logged = state["metrics_offset"], state["elapsed"]
        self.experience.load_state(progress)
        random_state.restore(state["random"], replay=self.generator)
