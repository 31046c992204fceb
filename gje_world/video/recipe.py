"""Learns a predictor of a generated world: the encoder first, then beliefs over what it embeds, held fixed.

A free encoder is best paid for making an open question invisible: what cannot be seen need not be predicted.
So what the encoder learns by may be told apart from what is to be predicted with it
(`benchmarks/futures_study.py`, docs/futures_study.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from gje_world.beliefs import make_head
from gje_world.data.world import World
from gje_world.networks import ConvEncoder, mlp
from gje_world.objectives import Objective, make_objective
from gje_world.video_model import PredictorConfig, VideoModel
from gje_world.world_model import LOG_STD_BOUNDS

LENGTH = 12  # frames of a training episode
PART = 500  # episodes made and embedded at once
ENCODERS = ("views", "dynamics", "random")
BELIEFS: dict[str, dict[str, Any]] = {
    "mixture": {"name": "mixture", "components": 16},
    "low_rank_mixture": {"name": "mixture", "components": 16, "rank": 2},
    "diagonal": {"name": "diagonal"},
    "flow": {"name": "flow"},
    "squared_error": {"name": "point"},
}
"""Options of `make_head` by the benchmark's word for the belief."""


@dataclass(frozen=True)
class Recipe:
    """How a predictor is learnt; `docs/futures_study.md` tells what the defaults rest on."""

    belief: str = "mixture"
    dim: int = 16  # D
    encoder: str = "views"  # what it learns by: noisy views of a frame, the dynamics, or nothing
    encoder_updates: int = 400
    encoder_lr: float = 1e-3
    width: int = 16  # channels of the encoder's first convolutions
    noise: float = 30.0  # views: standard deviation of the pixels' noise, in grey levels
    encoder_resolution: float = 0.3
    frame_stack: int = 1
    objective: dict[str, Any] = field(default_factory=dict)  # options of the encoder's, beside its resolution
    unroll: int = 0  # dynamics: steps also learnt along sampled futures
    history: int = 3  # embeddings that the predictor looks at
    hidden: int = 128
    layers: int = 3
    episodes: int = 20_000  # that beliefs are learnt from; each holds one draw of the way
    updates: int = 4_000
    batch: int = 64
    lr: float = 2e-3
    resolution: float = 0.01  # at the end; it falls from `first_resolution` over the first 60 %
    first_resolution: float = 0.5


class VideoPredictor:
    """A :class:`VideoModel` without actions, as the benchmark asks it."""

    def __init__(self, model: VideoModel):
        self.model = model

    def embed(self, frames: Tensor) -> Tensor:
        return self.model.embed(frames)

    def sample(self, context: Tensor, horizon: int, count: int) -> Tensor:
        z = self.model.embed(context)
        return self.model.imagine(z, no_action(z, z.shape[1] - 1 + horizon), count).transpose(0, 1)


def learn(world: World, recipe: Recipe, seed: int, advance: Callable[[], None] = lambda: None) -> VideoModel:
    """A model of the world, learnt from episodes of that seed.

    Arguments:
        advance: called after each of `recipe.encoder_updates + recipe.updates` gradient steps.
    """
    encoder = learn_encoder(world, recipe, seed, advance)
    model = around(encoder, world, recipe, seed)
    learn_beliefs(model, embed_episodes(model, world, recipe, seed), recipe, seed, advance)
    return model


def learn_encoder(
    world: World, recipe: Recipe, seed: int, advance: Callable[[], None] = lambda: None
) -> ConvEncoder:
    """The encoder of a recipe: the same one whatever belief is then learnt with it."""
    recipe = replace(recipe, belief="mixture")
    torch.manual_seed(seed)
    channels = world.frame_shape[0] * recipe.frame_stack
    encoder = ConvEncoder(channels, recipe.dim, world.size, recipe.width)
    frames, _ = episodes(world, seed, 0)
    whole = make_model(encoder, recipe, frozen=False)
    whole.centre_on(frames[:100])
    if recipe.encoder == "dynamics":
        learn_by_dynamics(whole, frames, recipe, seed, advance)
    elif recipe.encoder == "views":
        learn_by_views(encoder, whole.stacked(frames).flatten(0, 1), recipe, seed, advance)
    return encoder


def around(encoder: ConvEncoder, world: World, recipe: Recipe, seed: int) -> VideoModel:
    """A new model around a finished encoder, whose embeddings it brings to unit scale."""
    torch.manual_seed(seed)
    model = make_model(encoder, recipe, frozen=True)
    model.centre_on(episodes(world, seed, 0)[0])
    return model


@torch.no_grad()
def embed_episodes(model: VideoModel, world: World, recipe: Recipe, seed: int) -> Tensor:
    """Embeddings `[N, T, D]` of the episodes that beliefs are learnt from."""
    parts = range(-(-recipe.episodes // PART))
    z = torch.cat([model.embed(clips) for k in parts for clips in episodes(world, seed, k)[0].split(50)])
    return z[: recipe.episodes]


def learn_by_views(
    encoder: ConvEncoder, obs: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None]
) -> None:
    """Teaches the encoder by GJE of two views of each of `obs [N, C, H, W]`, noisy in every pixel.

    What is told of a frame is then what can be told of it through noise, whether it can be predicted or not.
    """
    head = make_head("diagonal", 64, recipe.dim, log_std_bounds=LOG_STD_BOUNDS)
    predictor = nn.Sequential(mlp(recipe.dim, 64, 1), head)
    objective = encoder_objective(recipe)
    generator = Generator().manual_seed(seed)

    def view(chosen: Tensor) -> Tensor:
        noise = recipe.noise * torch.randn(chosen.shape, generator=generator)
        return (chosen + noise).round().clamp(0, 255).to(torch.uint8)

    def loss(_: int) -> Tensor:
        chosen = obs[torch.randint(len(obs), (256,), generator=generator)]
        z = encoder(torch.cat([view(chosen), view(chosen)]))
        belief = predictor(z).translate(z)
        return objective.predict(belief, z.roll(len(chosen), 0)).mean() + objective.marginal(z)

    descend(nn.ModuleList([encoder, predictor]), loss, recipe.encoder_updates, recipe.encoder_lr, advance)


def learn_by_dynamics(
    model: VideoModel, frames: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None]
) -> None:
    """Teaches encoder and beliefs together, by GJE of each frame of `[N, T, C, H, W]` and the next."""
    objective = encoder_objective(recipe)
    generator = Generator().manual_seed(seed)
    first = recipe.history

    def loss(_: int) -> Tensor:
        z = model.embed(frames[torch.randint(len(frames), (48,), generator=generator)])
        belief = model.believe_each(z[:, :-1], no_action(z, z.shape[1] - 1))
        told = objective.predict(belief, z[:, 1:]).mean() + objective.marginal(z)
        if recipe.unroll:
            later = model.unroll(z[:, :first], no_action(z, first - 1 + recipe.unroll), particles=4)
            for belief, target in zip(later, z[:, first:].unbind(1), strict=False):
                told = told + objective.predict(belief, target).mean() / recipe.unroll
        return told

    descend(model, loss, recipe.encoder_updates, recipe.encoder_lr, advance)


def learn_beliefs(
    model: VideoModel, z: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None]
) -> None:
    """Teaches the predictor of a model, its encoder held fixed, by the embeddings `z [N, T, D]` of episodes.

    The resolution falls: ways that are far apart are found first, and no component is left without a share.
    """
    name = "consistency" if recipe.belief == "squared_error" else "gje_conditional"
    objective = make_objective(name, recipe.dim)
    generator = Generator().manual_seed(seed)
    annealed = recipe.resolution / recipe.first_resolution

    def loss(update: int) -> Tensor:
        progress = min(1.0, update / (0.6 * recipe.updates))
        objective.resolution = recipe.first_resolution * annealed**progress
        path = z[torch.randint(len(z), (recipe.batch,), generator=generator)]
        belief = model.believe_each(path[:, :-1], no_action(path, path.shape[1] - 1))
        return objective.predict(belief, path[:, 1:]).mean()

    learnt = nn.ModuleList([model.predictor, model.head])
    descend(learnt, loss, recipe.updates, recipe.lr, advance)
    model.eval().requires_grad_(False)


def descend(
    learnt: nn.Module,
    loss: Callable[[int], Tensor],
    updates: int,
    lr: float,
    advance: Callable[[], None],
) -> None:
    """Adam on `loss(update)`, its step rising over 50 updates and falling to zero along a cosine."""
    optimiser = torch.optim.Adam(learnt.parameters(), lr=lr)

    def factor(update: int) -> float:
        return min(1.0, (update + 1) / 50) * 0.5 * (1 + math.cos(math.pi * update / updates))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    for update in range(updates):
        optimiser.zero_grad()
        loss(update).backward()
        nn.utils.clip_grad_norm_(learnt.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        advance()


def make_model(encoder: ConvEncoder, recipe: Recipe, frozen: bool) -> VideoModel:
    """The model of a recipe around an encoder."""
    options = dict(BELIEFS[recipe.belief])
    config = PredictorConfig("mlp", recipe.history, recipe.hidden, recipe.layers)
    return VideoModel(
        encoder, config, belief=options.pop("name"), frame_stack=recipe.frame_stack, frozen=frozen, **options
    )


def encoder_objective(recipe: Recipe) -> Objective:
    """What the encoder learns by."""
    return make_objective(
        "gje_conditional", recipe.dim, resolution=recipe.encoder_resolution, **recipe.objective
    )


def episodes(world: World, seed: int, part: int) -> tuple[Tensor, np.ndarray]:
    """Training episodes, uint8 `[PART, LENGTH, C, H, W]` and their states: the `part`-th of a seed."""
    frames, states = world.generate(np.random.default_rng([seed, part]), PART, LENGTH)
    return torch.from_numpy(frames), states


def no_action(z: Tensor, steps: int) -> Tensor:
    """Actions `[B, steps, 0]` of a world that takes none."""
    return z.new_zeros(len(z), steps, 0)
