"""How well are classes read off embeddings: by a linear map, and by the nearest neighbours?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor
from torchmetrics.functional.classification import multiclass_accuracy

PENALTIES = tuple(10.0**power for power in range(1, -7, -1))  # strong to weak, each starts from the last
TOLERANCE = 0.05  # of the chosen penalty, in decades
LEAST_POINTS = 3  # that a linear probe is fitted to: one held out, and two to vary
HELD_OUT = 0.1  # of the training points, to choose the penalty on
# as Caron et al. (2021), for whom 20 did best; Wu et al. (2018), whose temperature it is, have 200 neighbours
NEIGHBOURS, TEMPERATURE = 20, 0.07
CHUNK = 1024  # queries held against all neighbours at once


@dataclass(frozen=True)
class LinearProbe:
    r"""Multinomial logistic regression on standardised embeddings, which may be known but roughly.

    Of an embedding that is believed to have a variance, the probabilities are averages over what it may be,
    by the probit approximation with independent dimensions:

    .. math:: \mathrm{softmax}_k \Big(\frac{a_k}{\sqrt{1 + \frac{\pi}{8} s_k^2}}\Big), \qquad
        s_k^2 = \frac{1}{K - 1} \sum_{i \neq k} \mathrm{Var}(a_k - a_i)

    with the logits :math:`a = W^\top z + b` less their mean over classes. Of two classes it is MacKay's
    (1992); of more, each is held against all others, as softmax depends on differences alone.

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

    def logits(self, z: Tensor, variance: Tensor | None = None) -> Tensor:
        """Logits `[..., K]` of embeddings `z [..., D]`, of `variance [..., D]` where they are uncertain."""
        if variance is not None:
            variance = variance.float() / self.std.square()
        return _logits((z.float() - self.mean) / self.std, variance, self.weight, self.bias)


def fit_linear_probe(
    z: Tensor,
    y: Tensor,
    classes: int,
    penalties: tuple[float, ...] = PENALTIES,
    iterations: int = 100,
    variance: Tensor | None = None,
) -> LinearProbe:
    """Logistic regression by L-BFGS, its penalty where held-out training points are likeliest.

    As in Kornblith et al. (2019), with the penalty chosen it is fitted once more to all points. In place of
    their grid, the penalty falls until the likelihood does, and is then sought between the neighbours of the
    best: calibration turns on it within a decade. The split is always the same one.

    Arguments:
        z: embeddings `[N, D]`.
        y: labels `[N]`, int64 in `[0, classes)`.
        penalties: weights of half the squared norm beside the mean cross-entropy, strongest first.
        variance: of embeddings that are uncertain, `[N, D]`: the likelihood is that of their average.
        iterations: most of one fit.

    Raises:
        ValueError: there are fewer than three points.
    """
    if len(z) < LEAST_POINTS:
        raise ValueError(f"a linear probe needs at least {LEAST_POINTS} points, got {len(z)}")
    z = z.float()
    mean, std = z.mean(0), z.std(0)
    std = torch.where(std > 1e-6, std, 1.0)  # a dead dimension says nothing, and must not divide by nothing
    x = (z - mean) / std
    spread = None if variance is None else variance.float() / std.square()
    order = torch.randperm(len(z), generator=Generator().manual_seed(0)).to(z.device)
    count = max(1, round(HELD_OUT * len(z)))
    held_out, kept = order[:count], order[count:]
    x_kept, x_held_out = x[kept], x[held_out]
    spread_kept, spread_held_out = (None if spread is None else spread[part] for part in (kept, held_out))
    start = z.new_zeros(z.shape[1], classes), z.new_zeros(classes)
    fitted: dict[float, tuple[Tensor, Tensor]] = {}  # weight and bias, by penalty
    found: dict[float, float] = {}  # its negative log-likelihood of the held-out points

    def held_out_nll(penalty: float) -> float:
        nearest = min(fitted, key=lambda other: abs(math.log(other / penalty)), default=None)
        near = start if nearest is None else fitted[nearest]
        fitted[penalty] = _regress(x_kept, y[kept], spread_kept, *near, penalty, iterations)
        logits = _logits(x_held_out, spread_held_out, *fitted[penalty])
        found[penalty] = float(F.cross_entropy(logits, y[held_out]))
        return found[penalty]

    best = math.inf
    for place, penalty in enumerate(penalties):
        if (nll := held_out_nll(penalty)) > best:
            break
        best, stronger = nll, penalties[max(0, place - 1)]
    if len(found) > 1:
        bounds = math.log10(min(found)), math.log10(stronger)
        minimize_scalar(
            lambda power: held_out_nll(10.0**power),
            bounds=bounds,
            method="bounded",
            options={"xatol": TOLERANCE},
        )
    penalty = min(found, key=found.__getitem__)
    weight, bias = _regress(x, y, spread, *fitted[penalty], penalty, iterations)
    return LinearProbe(mean, std, weight, bias, penalty)


def _logits(x: Tensor, variance: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits `[..., K]` of standardised `x [..., D]`, flatter where `variance [..., D]` makes them unsure."""
    if variance is None:
        return x @ weight + bias
    weight, bias = weight - weight.mean(-1, keepdim=True), bias - bias.mean()
    of_each = variance @ weight.square()  # [..., K]
    # as the logits add up to nothing, the sum over i of Var(a_k - a_i) is K Var(a_k) + sum_i Var(a_i)
    classes = len(bias)
    of_differences = (classes * of_each + of_each.sum(-1, keepdim=True)) / max(1, classes - 1)
    return (x @ weight + bias) / (1 + math.pi / 8 * of_differences).sqrt()


@torch.enable_grad()
def _regress(
    x: Tensor,
    y: Tensor,
    variance: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    penalty: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Weight and bias that minimise mean cross-entropy plus penalty, starting from those given."""
    weight, bias = (start.clone().requires_grad_() for start in (weight, bias))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(_logits(x, variance, weight, bias), y) + 0.5 * penalty * weight.square().sum()
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
