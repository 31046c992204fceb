"""Cold start: does a new belief's spread find the scale of its targets, neither collapsing nor blowing up?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from gje_world.beliefs import PowerSpherical, make_head
from gje_world.networks import mlp

DIM, CONTEXT, HIDDEN = 8, 4, 64
NOISE = (
    0.3  # of the targets, in units of their scale; what the context explains has a standard deviation of 1
)
EVERY = 20  # updates between two looks
LOOKS = 16  # contexts whose beliefs are looked at


def spread_while_learning(
    belief: str, scale: float, seed: int, updates: int = 1000, lr: float = 1e-3
) -> list[float]:
    """Predicted standard deviation over that of the noise, from before the first update on; 1 is right.

    Targets are a linear function of the context plus noise, all times `scale`. For a belief over directions
    the targets' directions are learnt, whatever their scale.

    Arguments:
        belief: a name in `gje_world.beliefs.HEADS`.
        scale: standard deviation of what the context explains.

    Returns one number every 20 updates; the first is of the new belief.
    """
    torch.manual_seed(seed)
    mixing = F.normalize(torch.randn(CONTEXT, DIM), dim=0)
    trunk, head = mlp(CONTEXT, HIDDEN), make_head(belief, HIDDEN, DIM)
    model = nn.Sequential(trunk, head)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    ratios = []
    for update in range(updates + 1):
        context = torch.randn(128, CONTEXT)
        target = scale * (context @ mixing + NOISE * torch.randn(128, DIM))
        predicted = model(context)
        unit = NOISE * scale
        if isinstance(predicted, PowerSpherical):
            target, unit = F.normalize(target, dim=-1), NOISE / DIM**0.5
        if update % EVERY == 0:
            with torch.no_grad():
                ratios.append(float(model(context[:LOOKS]).variance.mean().sqrt()) / unit)
        loss = -predicted.learning_log_prob(target).mean() / DIM
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return ratios
