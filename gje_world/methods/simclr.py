"""SimCLR: tell the other view of an image from all other images of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gje_world.methods.method import Method, spread
from gje_world.networks import Encoder
from gje_world.objectives.statistics import distributed, gather
from gje_world.predictor import projector


class SimCLR(Method):
    """Normalised temperature-scaled cross-entropy (Chen et al., 2020, eq. 1).

    Arguments:
        temperature: 0.5 for batches below 1024, as the paper has it for CIFAR-10 (B.9); 0.1 for ImageNet.
        dim: of the projection.
        projector_hidden: width of the projector's hidden layer.
        common: options of every method.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float = 0.5,
        dim: int = 128,
        projector_hidden: int = 2048,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.temperature = temperature
        self.projector = projector(encoder.dim, projector_hidden, dim, layers=2)

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encode(views[0])
        v = self.projector(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return nt_xent(v[0], v[1], self.temperature), spread(z)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    r"""Mean over both views of all images, a scalar, of

    .. math:: -\log \frac{\exp(s(i, j) / \tau)}{\sum_{k \ne i} \exp(s(i, k) / \tau)}

    with :math:`s` the cosine, :math:`j` the other view of :math:`i`, and :math:`k` all views of all ranks.

    Arguments:
        a, b: projections `[B, D]` of two views of the same images.
        temperature: :math:`\tau`.
    """
    with torch.autocast(a.device.type, enabled=False):
        own = F.normalize(torch.stack([a, b]).float(), dim=-1)
        # view by view: the gradient that gloo gathers must lie in one piece
        everyone = torch.stack([gather(view) for view in own])  # [2, N, D]
        batch, total = len(a), everyone.shape[1]
        logits = own.flatten(0, 1) @ everyone.flatten(0, 1).mT / temperature  # [2B, 2N]
        first = batch * dist.get_rank() if distributed() else 0
        place = torch.arange(first, first + batch, device=a.device)
        itself = torch.cat([place, place + total])
        logits = logits.scatter(1, itself.unsqueeze(1), -torch.inf)
        return F.cross_entropy(logits, torch.cat([place + total, place]))
