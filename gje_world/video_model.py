"""Video model: an encoder, and a predictor from a history of embeddings to beliefs over the next ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gje_world.beliefs import Belief, Gaussian, Mixture, Pool, fuse, make_head, unit_scale_options
from gje_world.beliefs.belief import EMPTY
from gje_world.calibration import Calibration
from gje_world.networks import mlp
from gje_world.networks.transformer import CausalTransformer
from gje_world.options import option
from gje_world.propagation import METHODS, gaussian, linearised, moments

PREDICTORS = ("mlp", "transformer")


@dataclass
class PredictorConfig:
    """What looks at the embeddings so far (config group `predictor`)."""

    name: str = option("transformer", "set by the group: predictor=transformer or mlp")
    history: int = option(4, "embeddings it looks back at")
    hidden: int = option(128, "width")
    layers: int = option(3, "of the transformer: blocks; of the mlp: layers")
    heads: int = option(4, "of the transformer: attention heads")


class HistoryMLP(nn.Module):
    """Perceptron on the last `history` embeddings and actions; no memory beyond them.

    Where a sequence has just begun, its first embedding stands for those before it, with actions of zero.

    Arguments:
        dim, action_dim: `D` and `A`.
        hidden, layers: width and depth.
        history: embeddings it looks at.
    """

    def __init__(self, dim: int, action_dim: int, hidden: int, layers: int, history: int):
        super().__init__()
        self.history = history
        self.body = mlp(history * (dim + action_dim), hidden, layers)

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """`z [N, T, D]` and `action [N, T, A]` to features `[N, T, F]`; at `t`, of nothing after."""
        before = self.history - 1
        first = z[:, :1].expand(-1, before, -1)
        still = action.new_zeros(len(action), before, action.shape[-1])
        seen = torch.cat([torch.cat([first, z], 1), torch.cat([still, action], 1)], -1)
        length = z.shape[1]
        return self.body(torch.cat([seen[:, k : k + length] for k in range(self.history)], -1))


class VideoModel(nn.Module):
    """Encoder `f` and predictor `h`: a belief over the next embedding from those so far, and the actions.

    Sequences are batch first, `z [..., T, D]`. The action at `t` is the one between the embeddings at `t` and
    `t + 1`; a model without actions takes `A = 0`.

    Arguments:
        encoder: uint8 `[..., C, H, W]` to `[..., D]`, with an attribute `dim`.
        config: of the predictor.
        action_dim: `A`.
        belief: its name (`gje_world.beliefs.HEADS`).
        frame_stack: frames in an observation.
        frozen: whether the encoder stays as it is, its embeddings brought to unit scale by `centre_on`.
        belief_options: of its head; standard deviations lie between e^-5 and e^1.5 unless told otherwise.

    Raises:
        ValueError: there is no such predictor or belief, or it cannot have such a size.
    """

    offset: Tensor
    spread: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        config: PredictorConfig,
        action_dim: int = 0,
        belief: str = "diagonal",
        *,
        frame_stack: int = 1,
        frozen: bool = False,
        **belief_options: Any,
    ):
        super().__init__()
        if config.name not in PREDICTORS:
            raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}; got {config.name!r}")
        dim: int = encoder.dim  # type: ignore[assignment]
        self.architecture = {
            "config": asdict(config),
            "action_dim": action_dim,
            "belief": belief,
            "frame_stack": frame_stack,
            **belief_options,
        }
        self.dim, self.action_dim, self.history = dim, action_dim, config.history
        self.frame_stack, self.frozen = frame_stack, frozen
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.resting = False  # whether an encoder that has learnt stays as it is from now on
        self.encoder = encoder.requires_grad_(not frozen)
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(()))
        sizes = (dim, action_dim, config.hidden, config.layers)
        self.predictor: nn.Module = (
            HistoryMLP(*sizes, config.history)
            if config.name == "mlp"
            else CausalTransformer(*sizes, config.heads, config.history)
        )
        options = unit_scale_options(belief, **belief_options)
        self.head = make_head(belief, config.hidden, dim, **options)
        self.calibration = Calibration()
        self.train()

    def train(self, mode: bool = True) -> VideoModel:
        """Training mode, or evaluation mode; of an encoder that is frozen or at rest always the latter: the
        statistics of its batch norms would go on moving."""
        super().train(mode)
        if self.frozen or self.resting:
            self.encoder.eval()
        return self

    def precision(self) -> AbstractContextManager[Any]:
        """What the networks run in: `autocast` where they are measured; in training the engine sees to it."""
        return nullcontext() if self.training else self.autocast()

    # ---- embeddings ----

    def stacked(self, frames: Tensor) -> Tensor:
        """Observations `[..., T-K+1, K*C, H, W]` of `frames [..., T, C, H, W]`, oldest of the `K` first."""
        windows = frames.unfold(-4, self.frame_stack, 1).movedim(-1, -4)  # [..., T-K+1, K, C, H, W]
        return windows.flatten(-4, -3)

    def embed(self, frames: Tensor, encoder: nn.Module | None = None) -> Tensor:
        """`z [..., T-K+1, D]` of uint8 `frames [..., T, C, H, W]`, by its own encoder or the one given.

        Raises:
            ValueError: there are fewer than the `K` frames of an observation, or they are of another shape.
        """
        if frames.ndim < 4 or frames.shape[-4] < self.frame_stack:
            raise ValueError(
                f"frames must be [..., T, C, H, W] with T of {self.frame_stack} or more, got "
                f"{list(frames.shape)}"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen), self.precision():
            z = (encoder or self.encoder)(self.stacked(frames))
        return (z - self.offset) / self.spread

    @torch.no_grad()
    def centre_on(self, frames: Tensor) -> None:
        """Take the statistics of clips, uint8 `[B, T, C, H, W]`; call once, before training.

        An encoder that learns centres its input on them; of a frozen one the embeddings are centred and
        scaled, so that they are of the size that beliefs and resolution expect.
        """
        if self.frozen:
            z = self.embed(frames)
            self.offset.copy_(z.flatten(0, -2).mean(0))
            self.spread.copy_((z - self.offset).square().mean().sqrt().clamp(min=1e-6))
        else:
            self.encoder.centre_on(self.stacked(frames).flatten(0, 1))  # type: ignore[operator]

    # ---- beliefs ----

    def features(self, z: Tensor, action: Tensor) -> Tensor:
        """Features `[N, T, F]` of `z [N, T, D]`, `action [N, T, A]`, each of the last `history` places."""
        found = self.predictor(z[:, : self.history], action[:, : self.history])
        if z.shape[1] <= self.history:
            return found
        later = [
            part[:, 1:].unfold(1, self.history, 1).mT.flatten(0, 1)  # [N * (T - history), history, ...]
            for part in (z, action)
        ]
        last = self.predictor(*later)[:, -1].unflatten(0, (len(z), -1))
        return torch.cat([found, last], 1)

    def believe_each(self, z: Tensor, action: Tensor, *, time_first: bool = False) -> Belief:
        """Beliefs `[N, T]` over the embedding after each of `z [N, T, D]`, under `action [N, T, A]` at each.

        The head tells the change from the embedding before, so that before anything is learnt the world is
        expected to stay as it is.

        Arguments:
            time_first: `[T, N]` instead, for objectives that hold a context against those of other clips.
        """
        with self.precision():
            features = self.features(z, action)
            if time_first:
                features, z = features.movedim(1, 0), z.movedim(1, 0)
            return self.calibration(self.head(features).translate(z))

    def believe(self, z: Tensor, action: Tensor) -> Belief:
        """Belief `[...]` over the next embedding, from `z [..., T, D]` and `action [..., T, A]` so far."""
        with self.precision():
            return self.calibration(self.as_learnt(z, action))

    def as_learnt(self, z: Tensor, action: Tensor) -> Belief:
        """The same as `believe`, not calibrated, in the precision around it."""
        z, action = z[..., -self.history :, :], action[..., -self.history :, :]
        lead, last = z.shape[:-2], z[..., -1, :]
        rows = lead.numel()
        features = self.predictor(*(part.reshape(rows, *part.shape[-2:]) for part in (z, action)))
        return self.head(features[:, -1].reshape(*lead, -1)).translate(last)

    # ---- several steps ahead ----

    def imagine(self, z: Tensor, action: Tensor, particles: int) -> Tensor:
        """Sampled futures `[H, P, B, D]`, `P` for each history.

        Arguments:
            z: history `[B, T, D]`.
            action: `[B, T-1+H, A]`: those between the embeddings of the history, then those of the future.
            particles: `P`.
        """
        return self._roll(z, action, particles, lambda belief, shape: belief.rsample(shape))[1]

    def unroll(self, z: Tensor, action: Tensor, particles: int) -> list[Belief]:
        """Beliefs `[B]` at each of the next `H` steps along sampled futures, to be learnt by; as `imagine`.

        Each is the equal mixture of what the particles believe, which is what the model says of that step.
        Gradients flow through the means of the samples alone: their noise would press the beliefs to be surer
        than they may be.
        """

        def draw(belief: Belief, shape: torch.Size) -> Tensor:
            return belief.mean + (belief.sample(shape) - belief.mean).detach()

        return self._roll(z, action, particles, draw)[0]

    def propagate(
        self, z: Tensor, action: Tensor, method: str = "particles", particles: int = 64
    ) -> list[Belief]:
        """Beliefs `[B]` over the embedding at each of the next `H` steps (see `gje_world.propagation`).

        Arguments:
            z: history `[B, T, D]`.
            action: `[B, T-1+H, A]`, as `imagine` takes them.
            method: "particles", exact as their number grows; or "moments": Gaussians through the linearised
                mean, of beliefs as they were learnt, not calibrated.
            particles: of each history.

        Raises:
            ValueError: there is no such method, or no action of a step ahead, or for moments the belief has
                no covariance in closed form, or the history is shorter than the predictor's.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        if method == "particles":
            return self._roll(z, action, particles, lambda belief, shape: belief.rsample(shape))[0]
        self.require_actions(z, action)
        if z.shape[1] < self.history:
            raise ValueError(
                f"moments need a history of at least {self.history} embeddings, got {z.shape[1]}"
            )
        window, length = _Window(self), self.history
        actions = action[:, z.shape[1] - length :].unfold(1, length, 1).movedim(1, 0).mT
        newest = slice(-self.dim, None)
        with sdpa_kernel(SDPBackend.MATH):  # the one whose derivatives can be batched
            carried = moments(window.linearise, z[:, -length:].flatten(1), actions)
            return [gaussian(mean[:, newest], covariance[:, newest, newest]) for mean, covariance in carried]

    def condition(
        self,
        z: Tensor,
        action: Tensor,
        evidence: Belief,
        method: str = "particles",
        particles: int = 64,
    ) -> Gaussian | Mixture:
        """Belief `[B]` over the embedding `H` steps ahead, fused with what else is known of it
        (`gje_world.beliefs.fuse`): a goal, or the belief of a second predictor.

        Of a mixture, and by particles of any belief, futures that agree with the evidence become likelier.

        Arguments:
            z, action, method, particles: as `propagate` takes them.
            evidence: Gaussian, mixture or pool whose batch shape broadcasts with `[B]`; independent of what
                the model has seen.

        Raises:
            ValueError: there is no such method, or one of the two beliefs does not fuse in closed form.
        """
        return fuse(self.propagate(z, action, method, particles)[-1], evidence)

    def require_actions(self, z: Tensor, action: Tensor) -> None:
        """Refuses actions that do not fit the model, or reach no step beyond a history `z [B, T, D]`.

        Raises:
            ValueError: naming what they are and what they must be.
        """
        if action.ndim != 3 or action.shape[-1] != self.action_dim:
            raise ValueError(
                f"actions must be [B, T', {self.action_dim}] for this model, got {list(action.shape)}"
            )
        if action.shape[1] < z.shape[1]:
            raise ValueError(
                f"a history of {z.shape[1]} embeddings needs as many actions or more: those between and "
                f"those of the steps ahead; got {action.shape[1]}"
            )

    def _roll(
        self, z: Tensor, action: Tensor, particles: int, draw: Callable[[Belief, torch.Size], Tensor]
    ) -> tuple[list[Belief], Tensor]:
        """Beliefs `[B]` at each step, and the sampled futures `[H, P, B, D]`.

        All particles of a row share its first belief, which is computed once; of one that is calibrated, each
        keeps a width of its own.

        Raises:
            ValueError: there are no particles, or actions that do not fit (`require_actions`).
        """
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        self.require_actions(z, action)
        length, rows = z.shape[1], torch.Size((particles, len(z)))
        scale = self.calibration.draw_scales(rows, z.device) if self.calibration.corrects else None  # [P, B]
        with self.precision():
            first = self.as_learnt(z, action[:, :length])
            beliefs = [self.calibration(first)]
            drawn = draw(first, rows[:1]) if scale is None else draw(first.rescale(scale), EMPTY)
            futures, cloud = [drawn], z.expand(particles, *z.shape)
            for step in range(2, action.shape[1] - length + 2):
                cloud, each = self.onward(cloud, drawn, action[:, : length + step - 1])
                each = each if scale is None else each.rescale(scale * self.calibration.later(step))
                beliefs.append(Pool(each))
                drawn = draw(each, EMPTY)
                futures.append(drawn)
        return beliefs, torch.stack(futures)

    def onward(self, cloud: Tensor, drawn: Tensor, action: Tensor) -> tuple[Tensor, Belief]:
        """What particles have seen, and their beliefs `[P, B]` over what comes next, not calibrated.

        Arguments:
            cloud: what they had seen, `[P, B, T, D]`, of which no more than a history is kept.
            drawn: the embedding each has drawn after that, `[P, B, D]`.
            action: `[B, T', A]`, the last of them the one after that.
        """
        cloud = torch.cat([cloud, drawn.unsqueeze(2)], 2)[:, :, -self.history :]
        taken = action[:, -cloud.shape[2] :].expand(len(cloud), -1, -1, -1)
        return cloud, self.as_learnt(cloud, taken)


class _Window:
    """The embeddings a model looks back at as one vector `[B, T * D]`: all but the newest known from before.

    What `gje_world.propagation.moments` carries: windows depend on no more than the one before.
    """

    def __init__(self, model: VideoModel):
        self.model = model

    def believe(self, z: Tensor, action: Tensor) -> Belief:
        """Belief over the embedding after the window `z [B, T * D]`, under `action [B, T, A]`.

        In float32: derivatives of another precision cannot be batched.
        """
        return self.model.as_learnt(z.unflatten(-1, (self.model.history, -1)), action)

    def linearise(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, Jacobian and covariance of the window after this one."""
        mean, jacobian, covariance = linearised(self, z, action)
        known = z.shape[-1] - self.model.dim
        shift = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)[self.model.dim :]
        return (
            torch.cat([z[:, self.model.dim :], mean], -1),
            torch.cat([shift.expand(len(z), -1, -1), jacobian], 1),
            F.pad(covariance, (known, 0, known, 0)),
        )
