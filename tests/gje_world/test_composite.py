"""Likelihoods whose means learn by each dimension on its own: values, gradients, and what they are for."""

import pytest
import torch
from torch import nn

from gje_world.beliefs import DiagonalGaussian, Gaussian, LowRankGaussian, Mixture, ScaleMixture, make_head
from gje_world.objectives import make_objective

B, D = 6, 5
GAUSSIAN = ("diagonal", "low_rank", "full", "full_covariance", "spectral")


def believe(name, seed=0, **options):
    torch.manual_seed(seed)
    head = make_head(name, 8, D, **options)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    features = torch.randn(B, 8)
    return head, features, torch.randn(B, D)


def gradient(value, *leaves):
    return torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("resolution", [0.0, 0.3])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_mean_is_pulled_as_each_dimension_alone_would_pull_it(name, resolution):
    head, features, value = believe(name)
    value.requires_grad_()
    belief = head(features)
    told = belief.composite_log_prob(value, resolution)
    torch.testing.assert_close(told, belief.learning_log_prob(value, resolution))
    expected = (value - belief.mean) / (belief.variance + resolution**2)
    to_mean, to_value = gradient(told, belief.mean, value)
    torch.testing.assert_close(to_mean, expected)
    torch.testing.assert_close(to_value, -expected)  # as from a likelihood: a target gives way likewise


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_spread_learns_by_the_joint_likelihood(name):
    head, features, value = believe(name)
    weights = head.linear.weight
    (joint,) = gradient(head(features).log_prob(value), weights)
    (composite,) = gradient(head(features).composite_log_prob(value), weights)
    spread = torch.ones(len(weights), dtype=torch.bool)
    spread[:D] = False  # rows of the mean
    torch.testing.assert_close(composite[spread], joint[spread])
    assert composite[spread].abs().max() > 0
    if name == "diagonal":  # whose dimensions are on their own
        torch.testing.assert_close(composite, joint)
    else:
        assert not torch.allclose(composite[:D], joint[:D])


@pytest.mark.parametrize("rank", [0, 2])
def test_components_are_pulled_by_their_shares_and_weights_learn_by_the_joint_likelihood(rank):
    head, features, value = believe("mixture", components=3, rank=rank)
    belief = head(features)
    means, log_weights = belief.components.mean, belief.log_weights
    to_means, to_weights = gradient(belief.composite_log_prob(value), means, log_weights)
    each = log_weights + belief.components.log_prob(value.unsqueeze(-2))
    shares = each.softmax(-1).unsqueeze(-1)
    error = value.unsqueeze(-2) - means
    torch.testing.assert_close(to_means, (shares * error / belief.components.variance).detach())
    torch.testing.assert_close(to_weights, gradient(belief.log_prob(value), log_weights)[0])
    torch.manual_seed(1)
    told = belief.composite_log_prob(value, 0.3)
    torch.manual_seed(1)  # the same draw of the noise
    torch.testing.assert_close(told, belief.learning_log_prob(value, 0.3))


def test_a_mixture_of_one_is_its_component():
    head, features, value = believe("mixture", components=1, rank=2)
    belief = head(features)
    assert isinstance(belief, Mixture) and isinstance(belief.components, LowRankGaussian)
    alone = belief.components.pick(torch.zeros(B, dtype=torch.long))
    torch.testing.assert_close(belief.composite_log_prob(value), alone.composite_log_prob(value))


def test_what_could_be_noise_is_learnt_all_the_same():
    """Dimensions that move together, as far as is told, and of their own hardly at all: a factor of the
    covariance explains that at once, and leaves the mean of the likelihood next to no gradient."""

    def error(fit):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), make_head("low_rank", 32, 16, rank=1))
        objective = make_objective("gje_conditional", 16, fit=fit)
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(400):
            told = torch.randn(128, 4)
            moved = (told[:, :1] * told[:, 1:2]).expand(-1, 16)
            belief = network(told)
            assert isinstance(belief, Gaussian)
            loss = objective.predict(belief, moved + 0.1 * torch.randn(128, 16)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return (belief.mean - moved).square().mean() / moved.square().mean()

    assert error("composite") < min(0.03, error("likelihood") / 4)


def test_beliefs_that_are_no_gaussians_are_refused():
    objective = make_objective("gje_conditional", D, fit="composite", contrast=0.5)
    value = torch.randn(B, D)
    objective.predict(DiagonalGaussian(value, torch.ones(B, D)), value)
    head, features, _ = believe("student_t")
    with pytest.raises(
        ValueError, match=r"fit=composite needs belief one of diagonal, .*; for belief=student_t give"
    ):
        objective.predict(head(features), value)
    with pytest.raises(ValueError, match="is of a belief as it is learnt; got ScaleMixture"):
        calibrated = ScaleMixture(DiagonalGaussian(value, torch.ones(B, D)), torch.ones(1), torch.zeros(1))
        objective.predict(calibrated, value)
