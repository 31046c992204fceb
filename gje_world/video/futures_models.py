"""The models that the multiple-futures benchmark learns: an encoder, then beliefs over what it embeds.

A free encoder is best paid for making an open question invisible: what cannot be seen need not be predicted.
So what the encoder learns by may be told apart from what is to be predicted with it
(`benchmarks/futures_study.py`, docs/futures_study.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gje_world.data.world import World
from gje_world.evaluation.futures import CONTEXT
from gje_world.networks import ConvEncoder
from gje_world.networks.decoder import Decoder
from gje_world.objectives import Objective, make_objective
from gje_world.training.schedules import warm_cosine
from gje_world.video.calibration import calibrate
from gje_world.video.losses import annealed, shifted_view, view_predictor
from gje_world.video_model import PredictorConfig, VideoModel

LENGTH = 12  # frames of a training episode
PART = 500  # episodes made and embedded at once
OBSERVED = 256  # observations that an update of the encoder learns from, where it learns from single ones
AVERAGED = 20  # of this part of all updates the weights of a predictor are the average
ENCODERS = ("views", "dynamics", "reconstruct", "random")
BELIEFS: dict[str, dict[str, Any]] = {
    "mixture": {"name": "mixture", "components": 16},
    "low_rank_mixture": {"name": "mixture", "components": 16, "rank": 3},
    "diagonal": {"name": "diagonal"},
    "flow": {"name": "flow"},
    "squared_error": {"name": "point"},
}
"""Options of `make_head` by the benchmark's word for the belief."""


@dataclass(frozen=True)
class Recipe:
    """How a predictor is learnt; `docs/futures_study.md` tells what the defaults rest on.

    Raises:
        ValueError: there is no such belief or encoder, views would be shifted by less than nothing, or a
            context has not the frames that the predictor looks at.
    """

    belief: str = "mixture"
    dim: int = 16  # D
    encoder: str = "views"  # what it learns by: views of a frame, the dynamics, its pictures, or nothing
    encoder_updates: int = 400
    encoder_lr: float = 1e-3
    width: int = 16  # channels of the encoder's first convolutions
    noise: float = 30.0  # views: standard deviation of the pixels' noise, in grey levels
    shift: int = 4  # views: pixels that each is shifted by at most
    encoder_resolution: float = 0.3
    frame_stack: int = 1
    objective: dict[str, Any] = field(default_factory=dict)  # options of the encoder's, beside its resolution
    unroll: int = 0  # dynamics: steps also learnt along sampled futures
    history: int = 5  # embeddings that the predictor looks at
    hidden: int = 256
    layers: int = 3
    episodes: int = World.episodes  # that beliefs are learnt from; each holds one draw of the way
    updates: int = 10_000
    batch: int = 64
    lr: float = 1e-3
    resolution: float = 0.01  # at the end
    first_resolution: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("belief", tuple(BELIEFS)), ("encoder", ENCODERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.shift < 0:
            raise ValueError(f"shift must be at least 0, got {self.shift}")
        if self.history + self.frame_stack - 1 > CONTEXT:
            raise ValueError(
                f"history={self.history} with frame_stack={self.frame_stack} needs more frames than the "
                f"{CONTEXT} of a context"
            )


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
    frames = first_episodes(world, recipe, seed)
    model = around(learn_encoder(frames, recipe, seed, advance), frames, recipe, seed)
    learn_beliefs(model, embed_episodes(model, frames, world, recipe, seed), recipe, seed, advance)
    calibrate_beliefs(model, world, recipe, seed)
    return model


def learn_encoder(
    frames: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None] = lambda: None
) -> ConvEncoder:
    """The encoder of a recipe: the same one whatever belief is then learnt with it.

    Arguments:
        frames: of the first part of the training episodes, uint8 `[N, T, C, H, W]`.
    """
    recipe = replace(recipe, belief="mixture")
    torch.manual_seed(seed)
    channels, size = frames.shape[2] * recipe.frame_stack, frames.shape[-1]
    encoder = ConvEncoder(channels, recipe.dim, size, recipe.width)
    whole = make_model(encoder, recipe, frozen=False)
    whole.centre_on(frames[:100])
    if recipe.encoder == "dynamics":
        learn_by_dynamics(whole, frames, recipe, seed, advance)
    elif recipe.encoder == "views":
        learn_by_views(encoder, whole.stacked(frames).flatten(0, 1), recipe, seed, advance)
    elif recipe.encoder == "reconstruct":
        learn_by_pictures(encoder, whole.stacked(frames).flatten(0, 1), recipe, seed, advance)
    return encoder


def around(encoder: ConvEncoder, frames: Tensor, recipe: Recipe, seed: int) -> VideoModel:
    """A new model around a finished encoder, whose embeddings of `frames` it brings to unit scale."""
    torch.manual_seed(seed)
    model = make_model(encoder, recipe, frozen=True)
    model.centre_on(frames)
    return model


@torch.no_grad()
def embed_episodes(model: VideoModel, frames: Tensor, world: World, recipe: Recipe, seed: int) -> Tensor:
    """Embeddings `[N, T, D]` of the episodes that beliefs are learnt from, made and embedded part by part.

    Arguments:
        frames: of the first part.
    """
    later = (episodes(world, seed, part) for part in range(1, parts(recipe)))
    return torch.cat([embed_part(model, part) for part in chain([frames], later)])[: recipe.episodes]


@torch.no_grad()
def embed_part(model: VideoModel, frames: Tensor) -> Tensor:
    """Embeddings `[N, T, D]` of a part of the episodes."""
    return torch.cat([model.embed(clips) for clips in frames.split(50)])


def parts(recipe: Recipe) -> int:
    """Parts that the episodes learnt from lie in."""
    return -(-recipe.episodes // PART)


def learn_by_views(
    encoder: ConvEncoder, obs: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None]
) -> None:
    """Teaches the encoder by GJE of two views of each of `obs [N, C, H, W]`, shifted, noisy in every pixel.

    What an embedding holds of a frame is then what can be told through shift and noise, whether or not it
    can be predicted.
    """
    predictor = view_predictor(recipe.dim, 64)
    objective = encoder_objective(recipe)
    generator = Generator().manual_seed(seed)

    def loss(_: int) -> Tensor:
        chosen = obs[torch.randint(len(obs), (OBSERVED,), generator=generator)]
        views = [shifted_view(chosen, recipe.noise, recipe.shift, generator) for _ in range(2)]
        z = encoder(torch.cat(views))
        belief = predictor(z).translate(z)
        return objective.predict(belief, z.roll(len(chosen), 0)).mean() + objective.marginal(z)

    descend(nn.ModuleList([encoder, predictor]), loss, recipe.encoder_updates, recipe.encoder_lr, advance)


def learn_by_pictures(
    encoder: ConvEncoder, obs: Tensor, recipe: Recipe, seed: int, advance: Callable[[], None]
) -> None:
    """Teaches the encoder by drawing `obs [N, C, H, W]` from what it embeds, as an autoencoder does."""
    decoder = Decoder(recipe.dim, obs.shape[1], obs.shape[-1], recipe.width)
    decoder.centre_on(obs[:1_000])
    generator = Generator().manual_seed(seed)

    def loss(_: int) -> Tensor:
        chosen = obs[torch.randint(len(obs), (OBSERVED,), generator=generator)]
        return decoder.error(encoder(chosen), chosen)

    descend(nn.ModuleList([encoder, decoder]), loss, recipe.encoder_updates, recipe.encoder_lr, advance)


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
    Only whole histories are learnt from: they are what a predictor is asked after.
    """
    name = "consistency" if recipe.belief == "squared_error" else "gje_conditional"
    objective = make_objective(name, recipe.dim)
    generator = Generator().manual_seed(seed)

    def loss(update: int) -> Tensor:
        objective.resolution = annealed(recipe.first_resolution, recipe.resolution, update / recipe.updates)
        path = z[torch.randint(len(z), (recipe.batch,), generator=generator)]
        past = path.unfold(1, recipe.history, 1)[:, :-1].mT  # [B, T - history, history, D]
        return objective.predict(model.believe(past, past[..., :0]), path[:, recipe.history :]).mean()

    learnt = nn.ModuleList([model.predictor, model.head])
    average = averaged_weights(learnt, recipe.updates)
    descend(learnt, loss, recipe.updates, recipe.lr, advance, average)
    model.eval().requires_grad_(False)


def calibrate_beliefs(model: VideoModel, world: World, recipe: Recipe, seed: int) -> None:
    """Calibrates what was learnt, on episodes after those that it was learnt from."""
    if recipe.belief == "squared_error":  # which has no density
        return
    z = embed_part(model, episodes(world, seed, parts(recipe)))
    calibrate(model, [(z, no_action(z, z.shape[1] - 1))])


def averaged_weights(learnt: nn.Module, updates: int) -> AveragedModel:
    """The exponential moving average of weights over about a twentieth of all updates."""
    return AveragedModel(learnt, multi_avg_fn=get_ema_multi_avg_fn(max(0.0, 1 - AVERAGED / updates)))


def descend(
    learnt: nn.Module,
    loss: Callable[[int], Tensor],
    updates: int,
    lr: float,
    advance: Callable[[], None],
    average: AveragedModel | None = None,
) -> None:
    """Adam on `loss(update)`, its step rising over 50 updates and falling to zero along a cosine.

    Arguments:
        average: of the weights, which they are set to in the end.
    """
    optimiser = torch.optim.Adam(learnt.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(updates, min(50, updates)))
    for update in range(updates):
        optimiser.zero_grad()
        loss(update).backward()
        nn.utils.clip_grad_norm_(learnt.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        if average is not None:
            average.update_parameters(learnt)
        advance()
    if average is not None:
        learnt.load_state_dict(average.module.state_dict())


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


def first_episodes(world: World, recipe: Recipe, seed: int) -> Tensor:
    """Frames of the first part of a recipe's episodes, which its encoder learns from."""
    return episodes(world, seed, 0)[: recipe.episodes]


def episodes(world: World, seed: int, part: int) -> Tensor:
    """Frames of training episodes, uint8 `[PART, LENGTH, C, H, W]`: the `part`-th of a seed."""
    return episodes_and_states(world, seed, part)[0]


def episodes_and_states(world: World, seed: int, part: int) -> tuple[Tensor, np.ndarray]:
    """The same with their states `[PART, LENGTH, S]`."""
    frames, states = world.generate(np.random.default_rng([seed, part]), PART, LENGTH)
    return torch.from_numpy(frames), states


def no_action(z: Tensor, steps: int) -> Tensor:
    """Actions `[B, steps, 0]` of a world that takes none."""
    return z.new_zeros(len(z), steps, 0)
