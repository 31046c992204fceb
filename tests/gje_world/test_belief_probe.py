"""Ways of letting the belief into the class probabilities, where what they must do is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from gje_world.beliefs import DiagonalGaussian
from gje_world.evaluation.belief_probe import (
    fit_uncertain_temperature,
    precision_weighted,
    sampled_probabilities,
)
from gje_world.evaluation.classification import LinearProbe
from gje_world.evaluation.confidence import fit_temperature

PROBE = LinearProbe(torch.zeros(2), torch.ones(2), torch.tensor([[4.0, -4.0], [0.0, 0.0]]), torch.zeros(2), 0)


def test_samples_of_a_sure_belief_say_what_its_mean_says() -> None:
    mean = torch.tensor([[0.3, 1.0], [-1.0, 0.0]])
    belief = DiagonalGaussian(mean, torch.full((2, 2), 1e-4))
    expected = PROBE.logits(mean).softmax(-1)
    torch.testing.assert_close(sampled_probabilities(PROBE, belief), expected, atol=1e-3, rtol=0)


def test_samples_of_an_unsure_belief_are_less_sure_only_where_classes_differ() -> None:
    torch.manual_seed(0)
    mean = torch.tensor([[0.5, 0.0]])
    across = DiagonalGaussian(mean, torch.tensor([[2.0, 1e-4]]))  # along what decides
    along = DiagonalGaussian(mean, torch.tensor([[1e-4, 2.0]]))  # along what does not
    sure = float(PROBE.logits(mean).softmax(-1)[0, 0])
    assert float(sampled_probabilities(PROBE, along)[0, 0]) == pytest.approx(sure, abs=1e-3)
    # P(4 * 2 * (0.5 + 2 n) > 0) = Φ(1/4) = 0.6, as steep as the probe is
    assert float(sampled_probabilities(PROBE, across, 4000)[0, 0]) == pytest.approx(0.6, abs=0.03)


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
