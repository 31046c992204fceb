"""Causal transformer over a sequence of embeddings, conditioned on actions by adaptive layer norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveBlock(nn.Module):
    r"""Causal self-attention and a perceptron, each shifted, scaled and gated by a condition.

    The AdaLN-zero block of DiT (Peebles and Xie, 2023, section 3.2): with :math:`\gamma, \beta, \alpha`
    linear in the condition and zero at the start,
    :math:`x \leftarrow x + \alpha \odot f((1 + \gamma) \odot \mathrm{LN}(x) + \beta)`, so that a new block
    changes nothing.

    Arguments:
        hidden: width `F`, a multiple of `heads`.
        heads: of the attention.
    """

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden)
        )
        self.modulation = nn.Linear(hidden, 6 * hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def attend(self, x: Tensor) -> Tensor:
        """Each position of `x [N, T, F]` looks at itself and those before it."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # [N, heads, T, F/heads]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """`x` and `condition`, both `[N, T, F]`, to `[N, T, F]`."""
        first, second = self.modulation(F.silu(condition)).chunk(2, dim=-1)
        scale, shift, gate = first.chunk(3, dim=-1)
        x = x + gate * self.attend(torch.addcmul(shift, self.norm(x), 1 + scale))
        scale, shift, gate = second.chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale))


class CausalTransformer(nn.Module):
    """What each embedding of a sequence, those before it, and the actions so far say of the next one.

    Arguments:
        dim: embedding dimension `D`.
        action_dim: `A`; 0 where there are no actions.
        hidden: width `F`.
        layers: blocks.
        heads: of their attention.
        length: longest sequence.

    Raises:
        ValueError: `hidden` is not a multiple of `heads`.
    """

    def __init__(self, dim: int, action_dim: int, hidden: int, layers: int, heads: int, length: int):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads={heads}, got {hidden}")
        self.embed = nn.Linear(dim, hidden)
        self.position = nn.Parameter(0.02 * torch.randn(length, hidden))
        self.act = nn.Linear(action_dim, hidden) if action_dim else None
        self.rest = nn.Parameter(torch.zeros(hidden))  # the condition where there is no action
        self.blocks = nn.ModuleList(AdaptiveBlock(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """`z [N, T, D]` and the action taken at each, `[N, T, A]`, to features `[N, T, F]`.

        Those at `t` depend on nothing after `t`.
        """
        x = self.embed(z) + self.position[: z.shape[1]]
        condition = self.rest.expand_as(x) if self.act is None else self.rest + self.act(action)
        for block in self.blocks:
            x = block(x, condition)
        return self.norm(x)
