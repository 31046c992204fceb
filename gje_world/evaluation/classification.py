"""How well are classes read off embeddings: by a linear map, and by the nearest neighbours?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchmetrics.functional.classification import multiclass_accuracy

PENALTIES = tuple(10.0**power for power in range(1, -7, -1))  # strong to weak, each starts from the last
HELD_OUT = 0.1  # of the training points, to choose the penalty on
# as Caron et al. (2021), for whom 20 did best; Wu et al. (2018), whose temperature it is, have 200 neighbours
NEIGHBOURS, TEMPERATURE = 20, 0.07
CHUNK = 1024  # queries held against all neighbours at once


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardised embeddings.

    Arguments:
        mean, std: of the training embeddings, `[D]`.
        weight, bias: `[D, K]` and `[K]` for `K` classes.
        penalty: chosen weight of the squared norm.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    def logits(self, z: Tensor) -> Tensor:
        """Logits `[..., K]` of embeddings `z [..., D]`."""
        return (z.float() - self.mean) / self.std @ self.weight + self.bias

    def to(self, device: torch.device | str) -> LinearProbe:
        """The probe on a device."""
        mean, std, weight, bias = (part.to(device) for part in (self.mean, self.std, self.weight, self.bias))
        return LinearProbe(mean, std, weight, bias, self.penalty)


def fit_linear_probe(
    z: Tensor, y: Tensor, classes: int, penalties: tuple[float, ...] = PENALTIES, iterations: int = 100
) -> LinearProbe:
    """Logistic regression by L-BFGS, its penalty chosen by the likelihood of held-out training points.

    As in Kornblith et al. (2019): with the penalty chosen, it is fitted once more to all points. The split
    is always the same one.

    Arguments:
        z: embeddings `[N, D]`.
        y: labels `[N]`, int64 in `[0, classes)`.
        penalties: weights of half the squared norm beside the mean cross-entropy, strongest first.
        iterations: most of one fit.

    Raises:
        ValueError: there are fewer than two points.
    """
    if len(z) < 2:
        raise ValueError(f"a linear probe needs at least 2 points, got {len(z)}")
    z = z.float()
    mean, std = z.mean(0), z.std(0)
    std = torch.where(std > 1e-6, std, 1.0)  # a dead dimension says nothing, and must not divide by nothing
    x = (z - mean) / std
    order = torch.randperm(len(z), generator=Generator().manual_seed(0)).to(z.device)
    count = max(1, round(HELD_OUT * len(z)))
    held_out, kept = order[:count], order[count:]
    weight = z.new_zeros(z.shape[1], classes)
    bias = z.new_zeros(classes)
    found = []
    for penalty in penalties:
        weight, bias = _regress(x[kept], y[kept], weight, bias, penalty, iterations)
        nll = F.cross_entropy(x[held_out] @ weight + bias, y[held_out])
        found.append((float(nll), penalty, weight, bias))
    _, penalty, weight, bias = min(found, key=lambda each: each[0])
    weight, bias = _regress(x, y, weight, bias, penalty, iterations)
    return LinearProbe(mean, std, weight, bias, penalty)


@torch.enable_grad()
def _regress(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias that minimise mean cross-entropy plus penalty, starting from those given."""
    weight, bias = (start.clone().requires_grad_() for start in (weight, bias))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, y) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]  # torch says float, and takes a tensor
    return weight.detach(), bias.detach()


def nearest_neighbours(
    z_train: Tensor,
    y_train: Tensor,
    z: Tensor,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Class probabilities `[M, K]` of `z [M, D]` by a vote of the nearest of `z_train [N, D]`.

    Votes are weighted by `exp(cosine / temperature)` (Wu et al., 2018, §3.4).

    Arguments:
        y_train: labels `[N]`, int64.
        neighbours: that vote; all where there are fewer.
    """
    bank = F.normalize(z_train.float(), dim=-1)
    votes = []
    for part in F.normalize(z.float(), dim=-1).split(CHUNK):
        cosine, index = (part @ bank.T).topk(min(neighbours, len(bank)))
        weights = torch.softmax(cosine / temperature, -1)
        votes.append(weights.new_zeros(len(part), classes).scatter_add_(1, y_train[index], weights))
    return torch.cat(votes)


def accuracy(scores: Tensor, y: Tensor) -> float:
    """Share of the points `[N]` whose highest score, of `[N, K]`, is that of their label."""
    return float(multiclass_accuracy(scores, y, num_classes=scores.shape[1], average="micro"))
