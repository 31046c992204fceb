"""How a video model learns: to see and to predict, then, the encoder at rest, how sure it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gje_world.data.clips import ClipBatch
from gje_world.networks.decoder import Decoder
from gje_world.objectives import Objective, make_objective
from gje_world.objectives.statistics import distributed
from gje_world.options import option
from gje_world.training.engine import Learner
from gje_world.video.embedded import PICTURED, EmbeddedBatch
from gje_world.video.losses import annealed, shifted_view, view_predictor
from gje_world.video_model import VideoModel

VIEW_HIDDEN = 128


@dataclass
class LearningConfig:
    """How a video model learns."""

    batch_size: int = option(32, "windows of clips an update learns from")
    windows_per_clip: int = option(1, "of these windows, how many of one clip, while the encoder learns")
    horizon: int = option(2, "embeddings of a clip after the predictor's history")
    views: float = option(1.0, "weight of telling an embedding from a noisy view of its observation")
    noise: float = option(20.0, "standard deviation of a view's pixels, in grey levels")
    shift: int = option(0, "pixels that a view is shifted by at most")
    within_clip: float = option(0.0, "share of embeddings' variance that is to lie within clips; 0: any")
    open_loop: float = option(0.0, "weight of the beliefs along sampled futures, over those after true pasts")
    particles: int = option(4, "sampled futures of each clip")
    settle: float = option(0.4, "share of the updates, at the end, in which the encoder rests")
    finest: float = option(0.02, "resolution of the likelihood at the end, to which it falls meanwhile")
    lr: float = option(1e-3, "learning rate of the predictor")
    encoder_lr: float = option(2e-3, "learning rate of the encoder")
    decoder_lr: float = option(2e-3, "learning rate of the decoder")
    warm_up: int = option(50, "updates in which the learning rates rise, in either phase, before they fall")


class VideoLearner(Learner):
    """A video model, its objective, and the decoder, which learns from embeddings but teaches them nothing:
    no gradient of its reaches them, though `engine.grad_clip` is of the norm of all.

    A free encoder is paid for making invisible what it cannot predict. So it learns by two terms: to be
    predicted, and to be told from noisy views of itself, which keeps what can be seen. Then it rests, and the
    predictor alone goes on learning, by a likelihood at ever finer resolution: its spread comes to be that of
    embeddings which no longer move.

    What stays the same all through a clip, such as where a target lies, is predicted at no cost, and the
    marginal term is content with embeddings that are spread out from one clip to another: they may hold that
    alone, and nothing of what moves. For such clips the marginal term can be taken also of how embeddings
    deviate from the mean of their clip, which are to have the share `within_clip` of the variance in every
    direction. Of a clip an update sees `windows_per_clip` windows of the predictor's history and the horizon;
    where they are several, contrast must tell moments of one clip apart as well. Where little is constant
    both are better left out: they make room for what is quick at the cost of what is slow.

    Arguments:
        model: what learns to predict.
        objective: tells the loss of a belief.
        decoder: draws the newest frame of an embedding.
        config: weights and learning rates.
        updates: of the whole run.
    """

    def __init__(
        self,
        model: VideoModel,
        objective: Objective,
        decoder: Decoder,
        config: LearningConfig,
        updates: int,
    ):
        super().__init__()
        self.model, self.objective, self.decoder, self.config = model, objective, decoder, config
        self.target_encoder = objective.momentum_encoder(model.encoder)
        self.resting = 0 if model.frozen else updates - round(config.settle * updates)  # from this update on
        self.updates, self.resolution = updates, getattr(objective, "resolution", 0.0)
        self.view_predictor = None
        if config.views and self.resting:
            self.view_predictor = view_predictor(model.dim, VIEW_HIDDEN)
            taught = "online" if objective.target == "online" else "stop_gradient"
            self.view_objective = make_objective(
                "gje_conditional", model.dim, resolution=self.resolution, target=taught
            )
        self.begin(0)

    def begin(self, update: int) -> None:
        """Update `update` comes next."""
        self.update = update
        self.model.resting = update >= self.resting
        if self.model.resting and self.resolution:
            self.objective.resolution = self.annealed()  # type: ignore[assignment]
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoLearner:
        """Training or evaluation mode, in which a moving average of the encoder follows it."""
        super().train(mode)
        if self.target_encoder is not None:
            self.target_encoder.train(self.model.encoder.training)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        c, encoder = self.config, self.model.encoder
        held = {id(parameter) for part in (encoder, self.decoder) for parameter in part.parameters()}
        groups = [
            {"params": [p for p in self.parameters() if p.requires_grad and id(p) not in held], "lr": c.lr},
            {"params": list(self.decoder.parameters()), "lr": c.decoder_lr},
        ]
        if not self.model.frozen:
            groups.append({"params": list(encoder.parameters()), "lr": c.encoder_lr, "until": self.resting})
        return groups

    def forward(self, batch: ClipBatch | EmbeddedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of `batch`, by phase, and the decoder's, whose gradients reach nothing else; parts of it.

        While the encoder rests, targets are what it embeds itself, whatever moving average it learnt by, and
        clips may be embedded already.
        """
        model, objective, c = self.model, self.objective, self.config
        resting = model.resting
        if isinstance(batch, EmbeddedBatch):
            z, actions, newest = batch  # [B, L, D], …
        else:
            with torch.set_grad_enabled(not resting):
                z = model.embed(batch.frames)
            actions, newest = (part[:, model.frame_stack - 1 :] for part in (batch.actions, batch.frames))
        z_target = z if resting or self.target_encoder is None else self.embed_target(batch.frames)
        belief = model.believe_each(z[:, :-1], actions, time_first=True)
        later = z_target[:, 1:].movedim(1, 0)
        parts = {"loss/nll": objective.predict(belief, later).mean()}
        share = 0.0 if resting else objective.contrast
        weights = {
            "loss/nll": 1 - share,
            "loss/contrast": share,
            "loss/views": c.views,
            "loss/marginal": 1 - share,
            "loss/within_clip": 1 - share,
            "loss/open_loop": (1 - share) * c.open_loop,
        }
        if share:
            parts["loss/contrast"] = objective.compare(belief, later).mean()
        if not resting:
            parts["loss/marginal"] = objective.marginal(z)
            if c.within_clip:
                clip = z.unflatten(0, (-1, c.windows_per_clip)).flatten(1, 2)
                deviation = clip - clip.mean(1, keepdim=True)
                parts["loss/within_clip"] = objective.marginal(deviation / c.within_clip**0.5)
            if self.view_predictor is not None:
                parts["loss/views"] = self.view_error(z, batch.frames)
        if c.open_loop:
            parts["loss/open_loop"] = self.open_loop_error(z, z_target, actions)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        parts["loss/decoder"] = self.decoder_error(z[:PICTURED].detach(), newest[:PICTURED])
        metrics = {name: value.detach() for name, value in parts.items()}
        with torch.no_grad():
            metrics["belief/std"] = belief.variance.mean().sqrt()
        loss = loss + parts["loss/decoder"]
        if resting and distributed():  # ranks wait for a gradient of every parameter
            loss = loss + 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        return loss, metrics

    def annealed(self) -> float:
        """Resolution of the likelihood now, which falls in the second phase."""
        progress = (self.update - self.resting) / max(1, self.updates - self.resting)
        return annealed(self.resolution, self.config.finest, progress)

    def view_error(self, z: Tensor, frames: Tensor) -> Tensor:
        """Loss of an embedding of each clip, of `z [B, L, D]`, as told from another view of what it is of."""
        assert self.view_predictor is not None
        rows, place = self.random_places(z)
        obs = self.model.stacked(frames)[rows, place]
        view = self.model.encoder(shifted_view(obs, self.config.noise, self.config.shift))
        return self.view_objective.predict(self.view_predictor(view).translate(view), z[rows, place]).mean()

    def open_loop_error(self, z: Tensor, z_target: Tensor, actions: Tensor) -> Tensor:
        """Loss of the embeddings after the history of each clip but the first, along sampled futures.

        Few particles leave gaps between them, which are least costly where the beliefs are wider than true.
        """
        past = z.shape[1] - self.config.horizon
        later = self.model.unroll(z[:, :past], actions, self.config.particles)[1:]
        targets = z_target[:, past + 1 :].unbind(1)
        each = [self.objective.predict(b, target).mean() for b, target in zip(later, targets, strict=True)]
        return torch.stack(each).mean()

    def decoder_error(self, z: Tensor, frames: Tensor) -> Tensor:
        """Error of the picture of one embedding of each clip of `z [B, L, D]`: `frames` show them all."""
        rows, place = self.random_places(z)
        return self.decoder.error(z[rows, place], frames[rows, place])

    def random_places(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of one random embedding of each clip of `z [B, L, D]`."""
        rows = torch.arange(len(z), device=z.device)
        return rows, torch.randint(z.shape[1], (len(z),), device=z.device)

    @torch.no_grad()
    def embed_target(self, frames: Tensor) -> Tensor:
        """Embeddings of `frames` by the encoder's moving average."""
        return self.model.embed(frames, self.target_encoder)

    def after_update(self, update: int) -> None:
        self.model.calibration.reset()  # it was of other weights
        if self.target_encoder is not None and not self.model.resting:
            self.target_encoder.update_parameters(self.model.encoder)
        self.begin(update + 1)

    def get_extra_state(self) -> int:
        """The update that comes next, for checkpoints."""
        return self.update

    def set_extra_state(self, state: int) -> None:
        self.begin(state)
