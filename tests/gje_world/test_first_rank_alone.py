"""What an evaluation computes, it computes on the first rank alone: it may not wait for the others."""

import pytest
import torch

from gje_world.evaluation.collapse import collapse_gauges
from gje_world.evaluation.foresight import marginal_gaussian
from gje_world.evaluation.out_of_distribution import fit_mahalanobis, fit_marginal
from gje_world.objectives import statistics


@pytest.mark.parametrize(
    "evaluate",
    [collapse_gauges, marginal_gaussian, fit_marginal, lambda z: fit_mahalanobis(z, torch.arange(20) % 2, 2)],
)
def test_no_other_rank_is_waited_for(monkeypatch, evaluate):
    def wait(x):
        raise AssertionError("waits for ever")

    monkeypatch.setattr(statistics, "distributed", lambda: True)
    monkeypatch.setattr(statistics.dist_functional, "all_reduce", wait)
    with pytest.raises(AssertionError):
        statistics.moments(torch.randn(20, 3))
    evaluate(torch.randn(20, 3))
