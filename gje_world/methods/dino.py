"""DINO: agree with a moving average of the network on which of many prototypes a view is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gje_world.methods.method import Method, follow, moving_average, rising, spread
from gje_world.networks import Encoder
from gje_world.objectives.statistics import mean_over_ranks


class DINO(Method):
    r"""Self-distillation without labels (Caron et al., 2021, eq. 3), of all views from the global ones.

    .. math:: L = -\frac{1}{|P|} \sum_{(s, t) \in P} P_t^\top \log P_s, \qquad
        P_t = \mathrm{softmax}\Big(\frac{g_t - c}{\tau_t}\Big), \quad
        P_s = \mathrm{softmax}\Big(\frac{g_s}{\tau_s}\Big)

    over all pairs of a view :math:`s` with a different global view :math:`t`. The teacher follows the
    student at a momentum rising to 1, its centre :math:`c` follows the mean of its outputs. The teacher's
    encoder is the one that is measured and exported, as in the paper, where it does better all along (5.2).

    Arguments:
        prototypes: outputs; the paper has 65536 for ImageNet.
        momentum: of the teacher, at the start.
        student_temperature, teacher_temperature: 0.1 and 0.04, as the paper has them without warm-up.
        projector_hidden: width of the head's hidden layers.
        dim: of its bottleneck.
        common: options of every method.
    """

    takes_local_views = True
    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: int = 4096,
        momentum: float = 0.996,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        projector_hidden: int = 2048,
        dim: int = 256,
        **common: Any,
    ):
        super().__init__(encoder, **common)
        self.momentum, self.temperatures = momentum, (student_temperature, teacher_temperature)
        self.head = PrototypeHead(encoder.dim, projector_hidden, dim, prototypes)
        self.teacher_encoder, self.teacher_head = moving_average(encoder), moving_average(self.head)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        embedded = [self.encode(group) for group in views]
        student = torch.cat([self.head(z) for z in embedded])
        with torch.no_grad():
            teacher = self.teacher_head(self.encode(views[0], self.teacher_encoder))
        loss = dino_loss(student, teacher, self.centre, *self.temperatures)
        if self.training:
            self.centre.lerp_(mean_over_ranks(teacher.detach().float().mean((0, 1))), 0.1)
        return loss, spread(embedded[0])

    @property
    def exported(self) -> Encoder:
        teacher = self.teacher_encoder.module
        assert isinstance(teacher, Encoder)
        return teacher

    def after_update(self, update: int) -> None:
        momentum = rising(self.momentum, self.progress(update))
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_head, self.head, momentum)


class PrototypeHead(nn.Module):
    """Perceptron to a direction, then its cosines with prototypes (Caron et al., 2021, appendix C).

    Arguments:
        features, hidden, dim, prototypes: widths along the way.
    """

    def __init__(self, features: int, hidden: int, dim: int, prototypes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim))

    def forward(self, z: Tensor) -> Tensor:
        direction = F.normalize(self.layers(z).float(), dim=-1)
        return direction @ F.normalize(self.prototypes, dim=-1).mT


def dino_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Mean cross-entropy, a scalar, over pairs of different views.

    Arguments:
        student: outputs `[V, B, K]` of all views, the global ones first.
        teacher: outputs `[G, B, K]` of the global views.
        centre: `[K]`.
    """
    with torch.autocast(student.device.type, enabled=False):
        target = ((teacher.float() - centre) / teacher_temperature).softmax(-1).detach()
        guess = (student.float() / student_temperature).log_softmax(-1)
        crossed = -torch.einsum("tbk,sbk->ts", target, guess) / student.shape[1]
        other = ~torch.eye(len(teacher), len(student), dtype=torch.bool, device=student.device)
        return crossed[other].mean()
