"""Seconds of beliefs' likelihoods, forward and backward, as ratios; memory of a large one.

    python benchmarks/beliefs.py [--csv results/beliefs.csv]

Each ratio is measured in one process, the two kinds in turn, and the median of the rounds counts.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from measure import in_own_process, parser, write_csv
from torch import Tensor, nn
from torch import distributions as td

from gje_world.beliefs import LowRankGaussian, PrecisionGaussian, make_head
from gje_world.networks import mlp
from gje_world.training.devices import autocast_dtype, keep_freed_memory, set_threads

WARM_UP, CALLS = 3, 10


def seconds(work: Callable[[], Tensor]) -> float:
    """Of one call of `work` and the backward pass from its result."""
    start = time.perf_counter()
    for _ in range(CALLS):
        work().backward()
    return (time.perf_counter() - start) / CALLS


def compare(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], rounds: int) -> tuple[float, float]:
    """Median seconds of both, in turn."""
    for work in (ours, theirs):
        for _ in range(WARM_UP):
            work().backward()
    found = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return statistics.median(a for a, _ in found), statistics.median(b for _, b in found)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def diagonal_head(
    rounds: int, threads: int | None, dtype: torch.dtype | None = None, layers: int = 2
) -> tuple[float, float]:
    """Diagonal head and likelihood, against point head and squared error, after as many layers in both."""
    set_up(threads)
    count, dim, width = 1024, 256, 512
    z, target = leaf(count, dim if layers else width), torch.randn(count, dim)
    trunk = mlp(dim, width, layers) if layers else nn.Identity()
    diagonal, point = make_head("diagonal", width, dim), make_head("point", width, dim)
    dtype = dtype or autocast_dtype(torch.device("cpu"), "auto")

    def ours() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            belief = diagonal(trunk(z))
        return -belief.log_prob(target).mean()

    def theirs() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            belief = point(trunk(z))
        return (belief.mean - target).square().mean()

    return compare(ours, theirs, rounds)


def low_rank(rounds: int, threads: int | None) -> tuple[float, float]:
    """Log-density from the parameters, against `torch.distributions.LowRankMultivariateNormal`."""
    set_up(threads)
    count, dim, rank = 512, 512, 8
    mean, log_std, factor = leaf(count, dim), leaf(count, dim), leaf(count, dim, rank)
    target = torch.randn(count, dim)

    def ours() -> Tensor:
        return -LowRankGaussian(mean, log_std.exp(), factor).log_prob(target).mean()

    def theirs() -> Tensor:
        std = log_std.exp()
        belief = td.LowRankMultivariateNormal(
            mean, std.unsqueeze(-1) * factor, std.square(), validate_args=False
        )
        return -belief.log_prob(target).mean()

    return compare(ours, theirs, rounds)


def precision_cholesky(rounds: int, threads: int | None) -> tuple[float, float]:
    """Log-density from the precision's factor, against `MultivariateNormal(covariance_matrix=…)`."""
    set_up(threads)
    count, dim = 512, 128
    mean, target = leaf(count, dim), torch.randn(count, dim)
    tril = torch.randn(count, dim, dim).tril(-1) / dim + torch.eye(dim)
    covariance = (tril @ tril.mT).requires_grad_()
    tril.requires_grad_()

    def ours() -> Tensor:
        return -PrecisionGaussian(mean, tril).log_prob(target).mean()

    def theirs() -> Tensor:
        return -td.MultivariateNormal(mean, covariance, validate_args=False).log_prob(target).mean()

    return compare(ours, theirs, rounds)


def large_low_rank(threads: int | None) -> float:
    """GiB that a low-rank head's likelihood and its gradients add at D = 4096, r = 16, B = 256."""
    set_up(threads)
    head = make_head("low_rank", 256, 4096, rank=16)
    features, target = torch.randn(256, 256), torch.randn(256, 4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (-head(features).log_prob(target).mean()).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def set_up(threads: int | None) -> None:
    torch.manual_seed(0)
    keep_freed_memory()
    set_threads(threads)


COMPARED = {
    "predictor with diagonal head + NLL, B=1024, D=256, to MSE": (diagonal_head, "at most 1.15"),
    "predictor, in float32": (partial(diagonal_head, dtype=torch.float32), "at most 1.15"),
    "diagonal head alone + NLL, to MSE head alone": (partial(diagonal_head, layers=0), "at most 1.15"),
    "head alone, in float32": (partial(diagonal_head, dtype=torch.float32, layers=0), "at most 1.15"),
    "low rank, B=512, D=512, r=8, to torch": (low_rank, "at most 0.5"),
    "precision Cholesky, B=512, D=128, to torch": (precision_cholesky, "at most 0.33"),
}


def main() -> None:
    """Measure, print a table, and write it to the CSV file if one is named."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = options.parse_args()
    rows: list[dict[str, object]] = []
    for name, (measure, wanted) in COMPARED.items():
        ours, theirs = in_own_process(measure, arguments.rounds, arguments.threads)
        rows.append(
            {
                "what": name,
                "seconds": f"{ours:.4f}",
                "reference_seconds": f"{theirs:.4f}",
                "ratio": f"{ours / theirs:.3f}",
                "wanted": wanted,
            }
        )
    memory = in_own_process(large_low_rank, arguments.threads)
    rows.append(
        {"what": "GiB of low rank, B=256, D=4096, r=16", "ratio": f"{memory:.3f}", "wanted": "below 1"}
    )
    for row in rows:
        print(f"{row['what']:<50}{row['ratio']:>8}   {row['wanted']}")
    if arguments.csv is not None:
        blank = dict.fromkeys(rows[0], "")
        write_csv(arguments.csv, [blank | row for row in rows])


if __name__ == "__main__":
    main()
