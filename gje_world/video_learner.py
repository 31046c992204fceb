"""How a video model learns: beliefs about the next embedding and later ones, and a decoder to look with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gje_world.data.clips import ClipBatch
from gje_world.networks.decoder import Decoder
from gje_world.objectives import Objective
from gje_world.options import option
from gje_world.training.engine import Learner
from gje_world.video_model import VideoModel


@dataclass
class LearningConfig:
    """How a video model learns."""

    batch_size: int = option(32, "clips an update learns from")
    horizon: int = option(4, "embeddings of a clip after the predictor's history")
    open_loop: float = option(0.0, "weight of the beliefs along sampled futures, over those after true pasts")
    particles: int = option(4, "sampled futures of each clip")
    lr: float = option(5e-4, "learning rate of the predictor")
    encoder_lr: float = option(1e-3, "learning rate of the encoder")
    decoder_lr: float = option(1e-3, "learning rate of the decoder")
    warm_up: int = option(100, "updates in which the learning rates rise; they fall to zero along a cosine")


class VideoLearner(Learner):
    """A video model, its objective, and the decoder, which learns from embeddings but teaches them nothing.

    Arguments:
        model: what learns to predict.
        objective: tells the loss of a belief.
        decoder: draws the newest frame of an embedding.
        config: weights and learning rates.
    """

    def __init__(self, model: VideoModel, objective: Objective, decoder: Decoder, config: LearningConfig):
        super().__init__()
        self.model, self.objective, self.decoder, self.config = model, objective, decoder, config
        self.target_encoder = objective.momentum_encoder(model.encoder)

    def parameter_groups(self) -> list[dict[str, Any]]:
        c, encoder = self.config, self.model.encoder
        held = {id(parameter) for part in (encoder, self.decoder) for parameter in part.parameters()}
        held |= {id(parameter) for parameter in (self.target_encoder or torch.nn.Module()).parameters()}
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in held], "lr": c.lr},
            {"params": list(self.decoder.parameters()), "lr": c.decoder_lr},
        ]
        if not self.model.frozen:
            groups.append({"params": list(encoder.parameters()), "lr": c.encoder_lr})
        return groups

    def forward(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of `batch` and its parts: what is said of each embedding after those before it, of later ones
        along sampled futures, and the marginal term of all."""
        model, objective, c = self.model, self.objective, self.config
        z = model.embed(batch.frames)  # [B, L, D]
        z_target = z if self.target_encoder is None else self.embed_target(batch.frames)
        actions = batch.actions[:, model.frame_stack - 1 :]
        belief = model.believe_each(z[:, :-1], actions)
        parts = {
            "loss/nll": objective.predict(belief, z_target[:, 1:]).mean(),
            "loss/marginal": objective.marginal(z),
        }
        loss = parts["loss/nll"] + parts["loss/marginal"]
        if c.open_loop:
            past = z.shape[1] - c.horizon
            later = model.unroll(z[:, :past], actions, c.particles)[1:]
            targets = z_target[:, past + 1 :].unbind(1)
            each = [
                objective.predict(each, target).mean() for each, target in zip(later, targets, strict=True)
            ]
            parts["loss/open_loop"] = torch.stack(each).mean()
            loss = loss + c.open_loop * parts["loss/open_loop"]
        parts["loss/decoder"] = self.decoder_error(z.detach(), batch.frames)
        metrics = {name: value.detach() for name, value in parts.items()}
        metrics["belief/std"] = belief.variance.detach().mean().sqrt()
        return loss + parts["loss/decoder"], metrics

    def decoder_error(self, z: Tensor, frames: Tensor) -> Tensor:
        """Error of the pictures of one embedding of each clip, drawn at random, of `z [B, L, D]`."""
        rows = torch.arange(len(z), device=z.device)
        place = torch.randint(z.shape[1], (len(z),), device=z.device)
        return self.decoder.error(z[rows, place], frames[rows, place + self.model.frame_stack - 1])

    @torch.no_grad()
    def embed_target(self, frames: Tensor) -> Tensor:
        """Embeddings of `frames` by the encoder's moving average, updated."""
        assert self.target_encoder is not None
        self.target_encoder.update_parameters(self.model.encoder)
        return self.model.embed(frames, self.target_encoder)
