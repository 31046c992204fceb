"""Ways of letting the belief into the class probabilities, where what they must do is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gje_world.beliefs import DiagonalGaussian
from gje_world.evaluation.belief_probe import fit_uncertain_temperature, precision_weighted
from gje_world.evaluation.classification import LinearProbe, fit_linear_probe
from gje_world.evaluation.confidence import calibration_error, calibration_floor, fit_temperature

# the logit of the one class against the other is 4 times the first dimension
PROBE = LinearProbe(torch.zeros(2), torch.ones(2), torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.zeros(2), 0)


def test_an_uncertain_embedding_is_less_sure_only_where_classes_differ() -> None:
    z = torch.tensor([[0.5, 0.0]])
    sure = PROBE.logits(z) - PROBE.logits(z).mean()
    torch.testing.assert_close(PROBE.logits(z, torch.zeros(1, 2)), sure)
    torch.testing.assert_close(
        PROBE.logits(z, torch.tensor([[0.0, 4.0]])), sure
    )  # along what does not decide
    found = PROBE.logits(z, torch.tensor([[4.0, 0.0]])).softmax(-1)[0, 0]  # along what decides
    drawn = (4 * (0.5 + 2 * torch.randn(100_000, generator=Generator().manual_seed(0)))).sigmoid().mean()
    assert float(found) == pytest.approx(float(drawn), abs=0.01)


def test_of_several_classes_it_is_near_the_average_over_draws() -> None:
    generator = Generator().manual_seed(0)
    probe = LinearProbe(
        torch.zeros(8), torch.ones(8), torch.randn(8, 5, generator=generator), torch.zeros(5), 0
    )
    z, variance = (torch.randn(100, 8, generator=generator), torch.rand(100, 8, generator=generator))
    draws = z + variance.sqrt() * torch.randn(4000, 100, 8, generator=generator)
    averaged = probe.logits(draws).softmax(-1).mean(0)
    apart = [
        (logits.softmax(-1) - averaged).abs().mean()
        for logits in (probe.logits(z), probe.logits(z, variance))
    ]
    assert apart[1] < 0.6 * apart[0]


def test_the_scale_of_dimensions_is_that_of_their_variance_too() -> None:
    scaled = LinearProbe(torch.zeros(2), torch.tensor([10.0, 1.0]), PROBE.weight, PROBE.bias, 0)
    found = scaled.logits(torch.tensor([[5.0, 0.0]]), torch.tensor([[400.0, 0.0]]))
    torch.testing.assert_close(found, PROBE.logits(torch.tensor([[0.5, 0.0]]), torch.tensor([[4.0, 0.0]])))


def _uncertain(count: int, seed: int, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances of beliefs, and labels decided by embeddings drawn from them."""
    generator = Generator().manual_seed(seed)
    mean = torch.randn(count, 3, generator=generator)
    variance = spread[torch.arange(count) % len(spread)].unsqueeze(1).expand(-1, 3)
    z = mean + variance.sqrt() * torch.randn(count, 3, generator=generator)
    y = torch.bernoulli((3 * z[:, 0]).sigmoid(), generator=generator).long()
    return mean, variance, y


def test_a_probe_fitted_over_beliefs_is_calibrated_where_they_are_right() -> None:
    """Half of the embeddings are known, half hardly: one that does not know which is right about neither."""
    mean, variance, y = _uncertain(10_000, 1, torch.tensor([0.0, 4.0]))
    mean_test, variance_test, y_test = _uncertain(10_000, 2, torch.tensor([0.0, 4.0]))
    heeding = fit_linear_probe(mean, y, 2, variance=variance).logits(mean_test, variance_test).softmax(-1)
    blind = fit_linear_probe(mean, y, 2).logits(mean_test).softmax(-1)
    known = variance_test[:, 0] == 0
    for part in (known, ~known):
        near_floor = calibration_floor(heeding[part]) + 0.02  # what the probit approximation may err by
        assert calibration_error(heeding[part], y_test[part]) < near_floor
        assert calibration_error(blind[part], y_test[part]) > 2 * near_floor


def test_a_belief_as_unsure_of_everything_changes_nothing() -> None:
    """Averaging over the belief must not by itself flatten what a probe says: the fit allows for it."""
    generator = Generator().manual_seed(0)
    z = torch.randn(5_000, 3, generator=generator)
    y = torch.bernoulli((2 * z[:, 0]).sigmoid(), generator=generator).long()
    variance = torch.full_like(z, 0.5)
    plain = fit_linear_probe(z, y, 2).logits(z).softmax(-1)
    averaged = fit_linear_probe(z, y, 2, variance=variance).logits(z, variance).softmax(-1)
    torch.testing.assert_close(averaged, plain, atol=0.01, rtol=0)


def test_precision_weighting_is_the_posterior_mean() -> None:
    belief = DiagonalGaussian(torch.tensor([[3.0, 3.0, 3.0]]), torch.tensor([[1e-6, 2.0, 1e6]]))
    found = precision_weighted(belief, torch.ones(3), torch.full((3,), 4.0))
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0, 1.0]]))


def test_a_temperature_from_the_uncertainty_is_found_where_it_is_the_truth() -> None:
    generator = Generator().manual_seed(0)
    clean = 3 * torch.randn(20_000, 4, generator=generator)
    y = torch.multinomial(clean.softmax(-1), 1, generator=generator).squeeze(-1)
    uncertainty = torch.randn(20_000, generator=generator)
    logits = clean * (0.5 + 0.8 * uncertainty).exp().unsqueeze(-1)
    fitted = fit_uncertain_temperature(logits, uncertainty, y)
    assert fitted.offset == pytest.approx(0.5, abs=0.05)
    assert fitted.slope == pytest.approx(0.8, abs=0.05)
    one = F.cross_entropy(logits / fit_temperature(logits, y), y)
    each = F.cross_entropy(fitted(logits, uncertainty), y)
    assert each < one - 0.05


def test_an_uncertainty_that_says_nothing_leaves_plain_temperature_scaling() -> None:
    logits = torch.randn(500, 3, generator=Generator().manual_seed(0))
    y = torch.arange(500) % 3
    y[:250] = logits[:250].argmax(-1)
    fitted = fit_uncertain_temperature(logits, torch.ones(500), y)
    expected = logits / fit_temperature(logits, y)
    torch.testing.assert_close(fitted(logits, torch.ones(500)), expected, rtol=1e-2, atol=1e-2)
