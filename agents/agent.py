"""The agent: a world model with reward, value and policy heads. It acts by planning, learns from replay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.heads import Critics, Policy, RewardHead, TerminationHead, TwoHot
from agents.planner import Planner, PlannerConfig
from agents.replay import Batch
from gje_world import WorldModel, WorldModelConfig
from gje_world.beliefs import Belief
from gje_world.data import shift
from gje_world.evaluation import collapse_gauges
from gje_world.networks import AdaptedEncoder, Encoder
from gje_world.objectives import make_objective
from gje_world.options import group, option
from gje_world.training import random_state


class EncoderMode(Enum):
    frozen = "frozen"
    finetune = "finetune"
    init = "init"


@dataclass
class LossWeights:
    """What each part of the loss counts."""

    world: float = option(0.1, "weight of the world model's objective and marginal")
    reward: float = option(0.2, "weight of the reward loss, and of the loss of terminal states")
    value: float = option(0.1, "weight of the value loss")


@dataclass
class AgentConfig:
    """The agent's heads and how they learn."""

    hidden: int = option(256, "width of the reward, value and policy heads")
    critics: int = option(5, "members of the value ensemble")
    bins: int = option(101, "bins of the two-hot codes of reward and value")
    horizon: int = option(3, "agent steps a training sequence unrolls")
    discount: float | None = option(
        None, "discount per agent step; null: from the episode length, as TD-MPC2 does"
    )
    temporal_decay: float = option(
        0.5, "weight of each further step of a sequence, relative to the one before"
    )
    target_rate: float = option(0.01, "rate of the target critics' moving average")
    lr: float = option(5e-4, "learning rate of all but the encoder")
    encoder_lr: float = option(2e-3, "learning rate of the encoder")
    finetune_lr: float = option(2e-4, "learning rate of a pretrained encoder where encoder_mode=finetune")
    grad_clip: float = option(20.0, "largest gradient norm")
    entropy: float = option(1e-4, "weight of the policy's entropy")
    shift: int = option(3, "largest random shift of an observation, in pixels; 0 for none")
    unshifted: float = option(0.25, "share of the sequences left as they are, which beliefs must know too")
    weights: LossWeights = group(LossWeights)


def discount_for(episode_steps: int) -> float:
    """Discount for episodes of so many agent steps: `1 - 5/steps` between 0.95 and 0.995 (TD-MPC2)."""
    return min(max(1 - 5 / episode_steps, 0.95), 0.995)


def stack_frames(frames: Tensor, count: int) -> Tensor:
    """Observations `[T+1, B, K*C, H, W]` of `frames [B, K+T, C, H, W]`, `K = count`, oldest frame first.

    A view, each frame in as many of them as it is stacked in.
    """
    windows = frames.unfold(1, count, 1)  # [B, T+1, C, H, W, K]
    return windows.permute(1, 0, 5, 2, 3, 4).flatten(2, 3)


class Agent(nn.Module):
    """Acts and learns in one environment.

    Arguments:
        config, planner, world: sizes and settings of the three parts.
        objective: name and options of the world model's objective.
        belief: name and options of the world model's belief.
        obs_shape: `(C, H, W)` of stacked observations.
        frame_stack: frames in them.
        action_dim: `A`.
        discount: of the value, per agent step.
        encoder: a pretrained one; None for a new one.
        encoder_mode: how the pretrained one learns: not at all, at `finetune_lr`, or as a new one does.
        device: where all tensors live.
        autocast: dtype of the networks' arithmetic; likelihoods stay in float32.
    """

    value_scale: Tensor

    def __init__(
        self,
        config: AgentConfig,
        planner: PlannerConfig,
        world: WorldModelConfig,
        objective: dict,
        belief: dict,
        *,
        obs_shape: tuple[int, int, int],
        frame_stack: int,
        action_dim: int,
        discount: float,
        encoder: Encoder | None = None,
        encoder_mode: EncoderMode = EncoderMode.finetune,
        device: torch.device,
        autocast: torch.dtype,
    ):
        super().__init__()
        self.config, self.frame_stack, self.device, self.autocast = config, frame_stack, device, autocast
        self.action_dim, self.discount = action_dim, discount
        self.objective = make_objective(dim=world.dim, **objective)
        options = dict(belief)
        self.world = WorldModel(
            world,
            obs_shape,
            action_dim,
            options.pop("name"),
            encoder=encoder,
            frozen=encoder_mode is EncoderMode.frozen,
            **options,
        )
        self.target_encoder = self.objective.momentum_encoder(self.world.encoder)
        sizes = (world.dim, action_dim, config.hidden)
        self.two_hot = TwoHot(config.bins)
        self.reward = RewardHead(*sizes, config.bins)
        self.critics = Critics(config.critics, *sizes, config.bins)
        self.target_critics = Critics(config.critics, *sizes, config.bins).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.policy = Policy(*sizes)
        self.termination = TerminationHead(*sizes)
        self.terminates = False  # until an episode has ended in a terminal state
        self.register_buffer("value_scale", torch.ones(()))
        self.to(device)
        # futures of points are all the same
        self.particles = 1 if belief["name"] == "point" else planner.particles
        self.planner = Planner(planner, action_dim, self.propose, self.evaluate_sequences)
        encoders = self.encoder_groups(encoder_mode)
        parts = (self.world.dynamics, self.world.head, self.objective, self.reward, self.critics)
        others = [parameter for part in (*parts, self.termination) for parameter in part.parameters()]
        self.learnt = [parameter for part in encoders for parameter in part["params"]] + others
        groups: list[dict[str, Any]] = [
            *encoders,
            {"params": others},
            {"params": list(self.policy.parameters()), "eps": 1e-5},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.lr, fused=True)

    def encoder_groups(self, mode: EncoderMode) -> list[dict[str, Any]]:
        """Parameters of the encoder by learning rate; those of a frozen one are in no group."""
        encoder, rate = self.world.encoder, self.config.encoder_lr
        if not isinstance(encoder, AdaptedEncoder):
            return [{"params": list(encoder.parameters()), "lr": rate}]
        groups = [{"params": list(encoder.project.parameters()), "lr": rate}]
        if mode is not EncoderMode.frozen:
            slow = self.config.finetune_lr if mode is EncoderMode.finetune else rate
            groups.append({"params": list(encoder.pretrained.parameters()), "lr": slow})
        return groups

    def get_extra_state(self) -> dict[str, bool]:
        """What `state_dict` holds beside tensors."""
        return {"terminates": self.terminates}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        self.terminates = bool(state["terminates"])

    def _precision(self):
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast != torch.float32)

    # ---- acting ----

    @torch.no_grad()
    def act(self, obs, explore: bool = False) -> Tensor:
        """Plan an action `[A]` for uint8 `obs [C, H, W]` (or `[B, A]` for `[B, C, H, W]`), on the CPU.

        Call `reset` when an episode begins; the plan of the last call is the start of the next.
        """
        obs = torch.as_tensor(obs, device=self.device)
        action, _, _ = self.decide(obs if obs.ndim == 4 else obs.unsqueeze(0), explore)
        return (action if obs.ndim == 4 else action[0]).cpu()

    @torch.no_grad()
    def decide(self, obs: Tensor, explore: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Action `[B, A]` for `obs [B, C, H, W]`, with the embedding and the belief's mean predicted std.

        Returns:
            action `[B, A]`; `z [B, D]`; uncertainty `[B]`, the standard deviation predicted for the next
            embedding, averaged over its dimensions.
        """
        with self._precision():
            z = self.world.embed(obs)
            action = self.planner.plan(z, explore)
            uncertainty = self.world.believe(z, action).variance.sqrt().mean(-1)
        return action, z, uncertainty

    @torch.no_grad()
    def embed(self, obs: Tensor) -> Tensor:
        """Embedding `z [B, D]` of `obs [B, C, H, W]`, in the agent's precision."""
        with self._precision():
            return self.world.embed(obs)

    @torch.no_grad()
    def believe(self, z: Tensor, action: Tensor) -> Belief:
        """Belief over the next embedding of `z [B, D]` under `action [B, A]`, in the agent's precision."""
        with self._precision():
            return self.world.believe(z, action)

    def reset(self) -> None:
        """Forget the last episode's plan."""
        self.planner.reset()

    def propose(self, z: Tensor, count: int) -> Tensor:
        """Action sequences `[H, B, K, A]` that the policy prior would take from `z [B, D]`."""
        z = z.unsqueeze(1).expand(-1, count, -1)
        actions = []
        for _ in range(self.planner.config.horizon):
            action, _ = self.policy(z)
            actions.append(action)
            z = self.world.believe(z, action).rsample()
        return torch.stack(actions)

    def evaluate_sequences(self, z: Tensor, actions: Tensor) -> Tensor:
        """Returns `[P, B, N]` of `actions [H, B, N, A]` from `z [B, D]`, in each particle's future.

        What comes after a state that may be terminal counts as much as it is likely not to be. The value of
        the last state is the mean of two random critics (as TD-MPC2 plans).
        """
        z = z.unsqueeze(1).expand(-1, actions.shape[2], -1)
        futures = self.world.imagine(z.flatten(0, 1), actions.flatten(1, 2), self.particles)
        futures = futures.unflatten(2, actions.shape[1:3])  # [H, P, B, N, D]
        returns = self.two_hot.decode(self.reward(z, actions[0])).unsqueeze(0)
        weight = self.survival(z, actions[0])
        for before, action in zip(futures[:-1], actions[1:], strict=True):
            action = action.expand(*before.shape[:-1], -1)
            returns = returns + weight * self.two_hot.decode(self.reward(before, action))
            weight = weight * self.survival(before, action)
        last, _ = self.policy(futures[-1])
        values = self.two_hot.decode(self.critics(futures[-1], last, self.critics.pair()))  # [2, P, B, N]
        return returns + weight * values.mean(0)

    def survival(self, z: Tensor, action: Tensor) -> Tensor | float:
        """Discount of what follows `action [..., A]` at `z [..., D]`, times the chance that anything does."""
        return self.discount * (1 - self.termination(z, action)) if self.terminates else self.discount

    # ---- learning ----

    def update(self, batch: Batch, gauges: bool) -> dict[str, Tensor]:
        """One gradient step on `batch`; detached metrics, with collapse gauges if asked for."""
        obs, shifted = self.augment(stack_frames(batch.frames, self.frame_stack))
        with self._precision():
            z = self.world.embed(obs)  # [T+1, B, D]
            z_target = z[1:] if self.target_encoder is None else self.embed_target(obs[1:])
            loss, path, metrics, belief = self.world_and_value_loss(z, z_target, batch, shifted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        metrics["loss/grad_norm"] = nn.utils.clip_grad_norm_(self.learnt, self.config.grad_clip)
        with self._precision():
            policy_loss = self.policy_loss(path.detach())
        policy = list(self.policy.parameters())
        for parameter, gradient in zip(policy, torch.autograd.grad(policy_loss, policy), strict=True):
            parameter.grad = gradient
        metrics["loss/policy_grad_norm"] = nn.utils.clip_grad_norm_(policy, self.config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.target_critics.parameters()),
                list(self.critics.parameters()),
                self.config.target_rate,
            )
        metrics["loss/policy"] = policy_loss
        if gauges:
            with random_state.forked(self.device):  # how often one looks must not change what is learnt
                metrics |= self.gauges(z, belief, self.unshifted(batch.action.shape[1]))
        return {name: value.detach() for name, value in metrics.items()}

    def augment(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Shift all but some sequences of `obs [T+1, B, C, H, W]`; and `[B, 1]`, 1 where beliefs are told so.

        Each observation is shifted on its own: a shift that lasts a sequence would be the most predictable
        thing in it, and the embeddings would hold it in place of velocities. Where all are shifted, beliefs
        are told nothing: they could not learn what observations are that are not.
        """
        pad, kept = self.config.shift, self.unshifted(obs.shape[1])
        shifted = torch.zeros(obs.shape[1], 1, device=obs.device)
        if kept == obs.shape[1]:
            return obs, shifted
        if kept:
            shifted[kept:] = 1.0
        offsets = torch.randint(-pad, pad + 1, (*obs.shape[:2], 2))
        offsets[:, :kept] = 0
        return shift(obs, offsets), shifted

    def unshifted(self, sequences: int) -> int:
        """How many of a batch of sequences, its first, are left as they are."""
        return round(self.config.unshifted * sequences) if self.config.shift else sequences

    @torch.no_grad()
    def embed_target(self, obs: Tensor) -> Tensor:
        """Embedding `[..., D]` of `obs [..., C, H, W]` by the encoder's moving average, updated."""
        assert self.target_encoder is not None
        self.target_encoder.update_parameters(self.world.encoder)
        return self.world.embed(obs, self.target_encoder)

    def world_and_value_loss(self, z: Tensor, z_target: Tensor, batch: Batch, shifted: Tensor):
        """Total loss, open-loop embeddings `[T+1, B, D]`, its parts, and the one-step beliefs `[T, B]`.

        Beliefs are trained from the embedding of the frame before, their spread also by the plain likelihood
        of errors held fixed; reward and value along an open-loop path of samples, as planning uses them.
        """
        weights, steps = self.config.weights, len(batch.action)
        target = self.td_target(z[1:].detach(), batch)  # [T, B]
        features = self.world.features(z[:-1], batch.action, shifted)
        belief = self.world.tell(features, z[:-1])
        path = self.world.unroll(z[0], batch.action, shifted)
        decay = self.config.temporal_decay ** torch.arange(steps, device=z.device).unsqueeze(-1)
        reward = self.two_hot.loss(self.reward(path[:-1], batch.action), batch.reward)
        value = self.two_hot.loss(self.critics(path[:-1], batch.action), target)  # [E, T, B]
        parts = {
            "loss/nll": self.objective.predict(belief, z_target).mean(),
            "loss/marginal": self.objective.marginal(z),
            "loss/reward": (decay * reward).mean(),
            "loss/value": (decay * value).mean(),
        }
        if belief.blurs and self.objective.resolution:
            parts["loss/spread"] = self.world.spread_error(features, z[:-1], z_target).mean()
        if self.terminates:
            logit = self.termination.logit(path[:-1], batch.action)
            ended = F.binary_cross_entropy_with_logits(logit, batch.terminated, reduction="none")
            parts["loss/termination"] = (decay * ended).mean()
        total = (
            weights.world * (parts["loss/nll"] + parts["loss/marginal"] + parts.get("loss/spread", 0.0))
            + weights.reward * parts["loss/reward"]
            + weights.value * parts["loss/value"]
            + weights.reward * parts.get("loss/termination", 0.0)
        )
        return total, path, {"loss/total": total, **parts}, belief

    @torch.no_grad()
    def td_target(self, z_next: Tensor, batch: Batch) -> Tensor:
        """Targets `[T, B]`: rewards to the end of the sequence, then the discounted value of its last state.

        The value is the lower of two random target critics'. A sequence that ends in a terminal state has
        none after it.
        """
        action, _ = self.policy(z_next[-1])
        values = self.target_critics(z_next[-1], action, self.target_critics.pair())  # [2, B, bins]
        target = self.two_hot.decode(values).amin(0)
        targets = []
        for reward, terminated in zip(batch.reward.flip(0), batch.terminated.flip(0), strict=True):
            target = reward + self.discount * (1 - terminated) * target
            targets.append(target)
        return torch.stack(targets[::-1])

    def policy_loss(self, path: Tensor) -> Tensor:
        """Policy prior against the mean critic, scaled by the values' running spread (TD-MPC2, eq. 4)."""
        action, surprise = self.policy(path)
        value = self.two_hot.decode(self.critics(path, action)).mean(0)  # [T+1, B]
        with torch.no_grad():
            low, high = value[0].quantile(0.05), value[0].quantile(0.95)
            self.value_scale.lerp_((high - low).clamp(min=1.0), self.config.target_rate)
        decay = self.config.temporal_decay ** torch.arange(len(path), device=path.device).unsqueeze(-1)
        return -(decay * (value / self.value_scale + self.config.entropy * surprise)).mean()

    @torch.no_grad()
    def gauges(self, z: Tensor, belief: Belief, unshifted: int) -> dict[str, Tensor]:
        """What would show a collapse, and whether one-step beliefs hold what they claim, on the batch.

        The latter of its first sequences, which were not shifted, as nothing is where the agent acts; of all
        where all were.
        """
        kept = slice(unshifted or None)
        metrics = collapse_gauges(z) | {"belief/std": belief.variance[:, kept].sqrt().mean()}
        if self.objective.needs_density:
            mass = belief.coverage(z[1:])[:, kept]
            metrics["belief/nll"] = -belief.log_prob(z[1:])[:, kept].mean() / z.shape[-1]
            metrics["belief/coverage_50"] = (mass <= 0.5).float().mean()
            metrics["belief/coverage_90"] = (mass <= 0.9).float().mean()
        return metrics
