"""World model: an encoder, and latent dynamics that return beliefs over future embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gje_world.beliefs import Belief, head_options, make_head, unit_scale_options
from gje_world.networks import AdaptedEncoder, ConvEncoder, Encoder, mlp, simplicial
from gje_world.options import option


@dataclass
class WorldModelConfig:
    """Size and kind of the world model."""

    dim: int = option(64, "embedding dimension D")
    hidden: int = option(256, "width of the dynamics")
    encoder_width: int = option(
        32, "channels of the encoder's second convolution, half and twice as many of the others"
    )
    simplicial: bool = option(
        False, "embeddings on simplices (groups of 8), as the consistency ablation needs"
    )


class WorldModel(nn.Module):
    """Encoder `f` and dynamics `h`: `z = f(obs)`, `belief = h(z, action)` over the next embedding.

    The dynamics are told whether observations were augmented, as most that they learn from are. Otherwise the
    spread of the beliefs would hold the augmentation, and be too wide for observations as they are (Karras et
    al., 2022, §5, condition a generator so).

    Arguments:
        config: sizes.
        obs_shape: `(C, H, W)` of the stacked frames.
        action_dim: `A`.
        encoder: a pretrained one to build on; None for a new one.
        frozen: its weights stay as they are.
        belief: name of the dynamics' belief (`gje_world.beliefs.HEADS`), not one over directions alone.
        belief_options: of its head; standard deviations lie between e^-5 and e^1.5 unless told otherwise.

    Raises:
        ValueError: observations are not square, or the belief or one of its options cannot be.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        obs_shape: tuple[int, int, int],
        action_dim: int,
        belief: str = "diagonal",
        *,
        encoder: Encoder | None = None,
        frozen: bool = False,
        **belief_options: Any,
    ):
        super().__init__()
        channels, height, width = obs_shape
        if height != width:
            raise ValueError(f"obs must be square, got {height}x{width}")
        if belief == "power_spherical":
            raise ValueError("belief=power_spherical is over directions alone; take belief=polar")
        self.simplicial = config.simplicial
        self.dim = config.dim
        self.encoder: ConvEncoder | AdaptedEncoder
        if encoder is None:
            self.encoder = ConvEncoder(channels, config.dim, height, config.encoder_width)
        else:
            self.encoder = AdaptedEncoder(encoder, channels, config.dim, frozen=frozen)
        self.dynamics = mlp(config.dim + action_dim + 1, config.hidden)
        options = unit_scale_options(belief, **belief_options)
        if "simplicial" in head_options(belief, **belief_options):
            options["simplicial"] = config.simplicial
        self.head = make_head(belief, config.hidden, config.dim, **options)

    def embed(self, obs: Tensor, encoder: nn.Module | None = None) -> Tensor:
        """Embedding `z [..., D]` of uint8 `obs [..., C, H, W]`, by its own encoder or the one given."""
        z = (encoder or self.encoder)(obs)
        return simplicial(z) if self.simplicial else z

    def believe(self, z: Tensor, action: Tensor, augmented: Tensor | None = None) -> Belief:
        """Belief over the next embedding, event shape `[D]`, from `z [..., D]` and `action [..., A]`.

        The head tells the change from `z`, so that before anything is learnt the world is expected to stay
        as it is: what moves slowly is found first. Simplicial embeddings are predicted outright.

        Arguments:
            augmented: `[..., 1]`, 1 where the observations were, 0 where they are as they came; None for 0.
        """
        return self.tell(self.features(z, action, augmented), z)

    def spread_error(self, features: Tensor, z: Tensor, z_target: Tensor) -> Tensor:
        r"""Negative log-likelihood `[...]`, per dimension, whose gradient reaches the beliefs' spread alone.

        A likelihood of finite resolution :math:`\tau` leaves open what spreads below it are. Here the head
        learns them from errors held fixed: neither embeddings nor means give way for a finer prediction,
        but regions of the belief hold what they say.

        Arguments:
            features: of the dynamics at `z`.
            z, z_target: embeddings `[..., D]` and those of the next observations.
        """
        return -self.tell(features.detach(), z.detach()).spread_log_prob(z_target) / self.dim

    def features(self, z: Tensor, action: Tensor, augmented: Tensor | None = None) -> Tensor:
        """What the dynamics make of `z [..., D]` and `action [..., A]`: what the head tells beliefs from."""
        if augmented is None:
            augmented = action.new_zeros(())
        augmented = augmented.expand(*action.shape[:-1], 1)
        return self.dynamics(torch.cat([z, action, augmented], dim=-1))

    def tell(self, features: Tensor, z: Tensor) -> Belief:
        """The belief that the head tells from the `features` of the dynamics at `z [..., D]`."""
        change = self.head(features)
        return change if self.simplicial else change.translate(z)

    def unroll(self, z: Tensor, action: Tensor, augmented: Tensor | None = None) -> Tensor:
        """One sampled future `[T+1, B, D]` of `z [B, D]` under `action [T, B, A]`, itself included.

        `augmented [B, 1]` is as `believe` takes it.

        Gradients flow through the means alone: a loss along the path would rather have no noise in it, and
        would press the beliefs to be surer than they may be.
        """
        path = [z]
        for step in action:
            belief = self.believe(path[-1], step, augmented)
            path.append(belief.mean + (belief.sample() - belief.mean).detach())
        return torch.stack(path)

    def imagine(self, z: Tensor, action: Tensor, particles: int) -> Tensor:
        """Sampled futures `[T, P, B, D]` of `z [B, D]` under `action [T, B, A]`, for `P` particles each.

        The first belief is shared by all particles of a row, so it is computed once.
        """
        futures = [self.believe(z, action[0]).rsample((particles,))]
        for step in action[1:]:
            futures.append(self.believe(futures[-1], step.expand(particles, *step.shape)).rsample())
        return torch.stack(futures)
