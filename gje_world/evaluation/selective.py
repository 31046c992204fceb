"""Does uncertainty rank the errors: what a predictor gains by leaving out what it is least sure of."""

from __future__ import annotations

import torch
from scipy.stats import spearmanr
from torch import Tensor


def risk_coverage(uncertainty: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Risk-coverage curve (Geifman and El-Yaniv, 2017): mean error of the points one is surest of.

    Equally uncertain points are kept or left out together: each counts their mean error.

    Arguments:
        uncertainty: `[N]`, low where sure.
        error: `[N]`, such as 1 where the class was wrong.

    Returns coverage `[N]`, from 1/N to 1, and the risk `[N]` at each.
    """
    _, place, count = uncertainty.unique(return_inverse=True, return_counts=True)  # sorted
    total = torch.zeros(len(count), dtype=torch.float64).scatter_add_(0, place.cpu(), error.cpu().double())
    smoothed = (total / count.cpu()).repeat_interleave(count.cpu())
    kept = torch.arange(1, len(smoothed) + 1, dtype=torch.float64)
    return (kept / len(smoothed)).float(), (smoothed.cumsum(0) / kept).float()


def aurc(uncertainty: Tensor, error: Tensor) -> float:
    """Area under the risk-coverage curve: the mean error over all shares kept; lower is better."""
    return float(risk_coverage(uncertainty, error)[1].mean())


def rank_correlation(uncertainty: Tensor, error: Tensor) -> float:
    """Spearman's correlation of `uncertainty [N]` with `error [N]`; NaN where either is constant."""
    if uncertainty.min() == uncertainty.max() or error.min() == error.max():
        return float("nan")
    return float(spearmanr(uncertainty.cpu().numpy(), error.cpu().numpy()).statistic)
