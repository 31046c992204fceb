"""The offline loop: batches in; updates, evaluations and checkpoints out; on one device or many."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from gje_world.options import ConfigError, option, require_at_least
from gje_world.training import random_state
from gje_world.training.checkpoint import CheckpointError
from gje_world.training.devices import Precision
from gje_world.training.means import RunningMeans, broken_weights, not_finite
from gje_world.training.metrics import MetricsLog
from gje_world.training.progress import TrainingProgress
from gje_world.training.ranks import from_all_ranks
from gje_world.training.run_directory import RunDirectory, RunDirectoryError
from gje_world.training.signals import Stop, Stopped


@dataclass
class EngineConfig:
    """How long, where and how a model is trained."""

    updates: int = option(2_000, "gradient steps of the whole run")
    log_every: int = option(20, "updates between rows of training metrics")
    evaluate_every: int = option(1_000, "updates between evaluations")
    checkpoint_every: int = option(500, "updates between checkpoints")
    accumulate: int = option(1, "batches averaged to one update; statistics and negatives are a batch's own")
    grad_clip: float | None = option(None, "largest gradient norm; null: any")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    devices: int = option(1, "devices of that kind on each node, data-parallel")
    nodes: int = option(1, "machines, started by torchrun or SLURM")
    precision: Precision = option(Precision.auto, "of the networks; auto: bfloat16 where the hardware has it")
    compile: bool = option(False, "compile the model with torch.compile")
    threads: int | None = option(None, "CPU threads; null: all cores")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: the first option found wrong.
        """
        names = ("updates", "log_every", "evaluate_every", "checkpoint_every", "accumulate")
        require_at_least(1, self, *names, "devices", "nodes", "threads", prefix="engine.")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ConfigError(f"engine.grad_clip={self.grad_clip} must be above 0, or null")


# What may differ when a run goes on: none of it changes what has been learnt so far.
CHANGEABLE = tuple(
    f"engine.{name}" for name in ("log_every", "evaluate_every", "checkpoint_every", "device", "threads")
)


class Learner(nn.Module):
    """What an engine trains: a module whose `forward` tells the loss of a batch."""

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to minimise, a scalar, and detached scalar metrics by name ("loss/…", "belief/…")."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; an `lr` in one stands in place of the common one.

        From update `until` of a group on, if it has one, its rate is zero: it stays as it is even where the
        optimiser's memory of past gradients would move it.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def after_update(self, update: int) -> None:
        """Whatever else follows gradient step `update`, counted from 0: moving averages, queues."""


class Batches(Protocol):
    """Endless batches on the CPU, of which the `k`-th depends on the seed and `k` alone."""

    def __call__(self, start: int, /) -> Iterator[Any]:
        """Batches from the `start`-th on."""


class Engine:
    """One run of a learner, at the newest good checkpoint of its run directory if there is any.

    Arguments:
        learner: what is trained.
        batches: what it learns from; each rank its own share.
        fabric: launched.
        run: the run directory, open.
        optimizer: makes an optimiser of parameter groups.
        schedule: factor of every learning rate at each update.
        seed: of the learner's own random numbers.
        evaluate: a row of metrics at so many updates, leaving where asked to stop; called on the first rank,
            with random states of its own.
        report: rewrites the report, told whether the run still goes on.
        samples: that a batch holds over all ranks, and their plural, for the progress bar.

    Raises:
        RunDirectoryError, CheckpointError: what is on the disk does not fit this run.
    """

    def __init__(
        self,
        learner: Learner,
        batches: Batches,
        *,
        config: EngineConfig,
        fabric: Fabric,
        run: RunDirectory,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], float] = lambda update: 1.0,
        seed: int,
        evaluate: Callable[[int, Stop], Mapping[str, Any]],
        report: Callable[[bool], Any],
        samples: tuple[int, str],
    ):
        self.config, self.fabric, self.run, self.seed = config, fabric, run, seed
        self.learner, self.batches, self.schedule = learner, batches, schedule
        self.evaluate, self.report, self.samples = evaluate, report, samples
        made = optimizer(learner.parameter_groups())
        self.rates = [group["lr"] for group in made.param_groups]
        if config.compile:
            learner.compile()
        self.module, self.optimizer = fabric.setup(learner, made)
        torch.manual_seed(seed + fabric.global_rank)
        self.update = 0
        self.evaluation_owed = False  # where a signal came during the evaluation of this update
        self.means = RunningMeans()
        self.logged: tuple[int | None, float] = (None, 0.0)  # bytes of metrics and seconds of run so far
        self.log: MetricsLog | None = None
        self.resumed_from = self.resume()

    @property
    def finished(self) -> bool:
        """Whether all updates are done, and the last evaluation."""
        return self.update >= self.config.updates and not self.evaluation_owed

    def train(self, stop: Stop) -> bool:
        """Run to `config.updates`, or until asked to stop; whether it came to its end.

        Raises:
            NonFiniteError: a term of the loss is NaN or infinite; the last checkpoint is from before that.
        """
        c, (offset, elapsed), first = self.config, self.logged, self.fabric.is_global_zero
        files = (self.run.metrics, self.run.tensorboard)
        size, plural = self.samples
        log = MetricsLog(*files, resume_offset=offset, elapsed=elapsed) if first else nullcontext()
        bar = TrainingProgress(
            c.updates,
            unit="updates",
            work=plural,
            work_per_step=size * c.accumulate,
            step=self.update,
            rest_every=c.evaluate_every,
            quiet=not first,
        )
        batches = self.batches(self.update * c.accumulate)
        with log as self.log, bar:
            save_owed = self.evaluation_owed
            try:
                while True:
                    if self.evaluation_owed:
                        with bar.resting():
                            self.evaluate_now(stop)
                    if save_owed:
                        self.save()
                    if self.update >= c.updates:
                        break
                    self.check(stop)
                    self.learn(batches)
                    last = self.update >= c.updates
                    if last or self.update % c.log_every == 0:
                        bar.advance(self.update, note=self.log_training(bar.speed))
                    else:
                        bar.advance(self.update)
                    self.evaluation_owed = last or self.update % c.evaluate_every == 0
                    save_owed = last or self.update % c.checkpoint_every == 0
            except Stopped:
                path = self.save()
                bar.announce(f"stopped by {stop.signal}; saved {path}; the same command goes on")
            finally:
                if hasattr(batches, "close"):
                    batches.close()  # ends its workers
        if first:
            self.report(False)
        return self.finished

    def announce(self, subject: str) -> None:
        """Tell who watches what is learnt from, and whether this run is new or goes on."""
        begin = "a new run"
        if self.resumed_from is not None:
            begin = f"going on from {self.resumed_from}"
        elif self.run.metrics.exists() and self.run.metrics.stat().st_size:
            every = self.config.checkpoint_every
            begin = f"begins anew: no checkpoint had been kept; there is one every {every:,} updates"
        print(f"{subject}\nrun_dir={self.run.path}: {begin}", file=sys.stderr)

    def check(self, stop: Stop) -> None:
        """Leave if asked to. Ranks must agree, for which they meet as often as they log.

        Raises:
            Stopped: someone has asked one of them.
        """
        if self.fabric.world_size == 1:
            stop.check()
        elif self.update % self.config.log_every == 0:
            signals = [signal for signal in from_all_ranks(stop.signal) if signal]
            if signals:
                stop.signal = signals[0]
                raise Stopped

    def learn(self, batches: Iterator[Any]) -> None:
        """One gradient step."""
        c = self.config
        factor = self.schedule(self.update)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor if self.update < group.get("until", math.inf) else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(c.accumulate):
            batch = self.fabric.to_device(next(batches))
            with self.fabric.no_backward_sync(self.module, enabled=part < c.accumulate - 1):
                loss, metrics = self.module(batch)
                self.fabric.backward(loss / c.accumulate)
            self.means.add({"loss/total": loss.detach()} | metrics)
        if c.grad_clip is not None:
            norm = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=c.grad_clip, error_if_nonfinite=False
            )
            assert norm is not None
            self.means.add({"loss/grad_norm": norm.detach()})
        self.optimizer.step()
        self.learner.after_update(self.update)
        self.update += 1

    # ---- what is written ----

    def log_training(self, speed: float) -> str:
        """Log the means of the training metrics since the last such row; the loss, for the bar."""
        row = self.means.take(self.fabric.strategy.all_reduce)
        if broken := [name for name, value in row.items() if not math.isfinite(value)]:
            raise not_finite(", ".join(broken), self.update, self.run.checkpoints)
        if self.log is not None:
            speeds = {f"speed/{self.samples[1].replace(' ', '_')}_per_second": speed}
            self.log.log("train", self.update, row | speeds)
        return f"loss {row.get('loss/total', math.nan):.4f}"

    def evaluate_now(self, stop: Stop) -> None:
        """Evaluate, log what it shows, and rewrite the report.

        Raises:
            Stopped: someone has asked to stop; nothing has changed then.
        """
        if self.fabric.world_size > 1:
            stop = Stop()  # the others do not look meanwhile: all leave together at the next update
        if self.log is not None:
            self.learner.eval()
            try:
                with random_state.forked(self.fabric.device, self.seed):
                    row = self.evaluate(self.update, stop)
            finally:
                self.learner.train()
            self.log.log("eval", self.update, row)
            self.report(self.update < self.config.updates)
        self.evaluation_owed = False

    # ---- what is kept ----

    def save(self) -> Path | None:
        """Write a checkpoint, on the first rank; None on the others.

        Raises:
            NonFiniteError: a loss since the last checkpoint is not finite, or a weight.
        """
        broken = [name for names in from_all_ranks(self.means.broken()) for name in names]
        broken += broken_weights(self.learner)
        if broken:
            raise not_finite(", ".join(dict.fromkeys(broken)), self.update, self.run.checkpoints)
        ranks = from_all_ranks({"random": random_state.capture(), "means": self.means.state()})
        if self.log is None:
            return None
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
            "ranks": ranks,
            "evaluation_owed": self.evaluation_owed,
            "metrics_offset": self.log.offset,
            "elapsed": self.log.elapsed,
        }
        return self.run.checkpoints.save(self.update, state)

    def resume(self) -> Path | None:
        """Take up the newest good checkpoint, on all ranks the same; its path.

        Raises:
            RunDirectoryError: on all ranks, where one of several cannot, or they find different ones.
        """
        path, refused = None, ""
        try:
            path = self.load()
        except (RunDirectoryError, CheckpointError) as error:
            if self.fabric.world_size == 1:
                raise
            refused = str(error)
        found = from_all_ranks([refused, path.name if path else ""])
        if reasons := [reason for reason, _ in found if reason]:
            raise RunDirectoryError(reasons[0])
        if len(names := {name for _, name in found}) > 1:
            raise RunDirectoryError(
                f"run_dir={self.run.path} must be one folder that all nodes share; the ranks found the "
                f"checkpoints {', '.join(sorted(name or 'none' for name in names))}"
            )
        return path

    def load(self) -> Path | None:
        """Take up the newest good checkpoint, if there is any; its path."""
        found = self.run.checkpoints.load_latest()
        if found is None:
            return None
        state, path = found
        try:
            self.learner.load_state_dict(state["learner"])
            self.optimizer.load_state_dict(state["optimizer"])
            ranks = state["ranks"]
            if len(ranks) != self.fabric.world_size:
                raise RunDirectoryError(f"{path} is of {len(ranks)} ranks, not {self.fabric.world_size}")
            own = ranks[self.fabric.global_rank]
            random_state.restore(own["random"])
            self.means.load_state(own["means"], self.fabric.device)
            self.update, self.evaluation_owed = state["update"], state["evaluation_owed"]
            self.logged = state["metrics_offset"], state["elapsed"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, RunDirectoryError | CheckpointError):
                raise
            reason = " ".join(str(error).split())
            raise RunDirectoryError(f"{path} is not of this model or version ({reason[:200]})") from error
        return path
