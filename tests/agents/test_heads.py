"""The two-hot code is exact between bins; the policy's density is that of a squashed Gaussian."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from agents.heads import Critics, Policy, RewardHead, TwoHot, symexp, symlog

LARGEST = 22025.0  # just within where the outermost bins of the default code lie


@given(st.floats(-LARGEST, LARGEST, width=32), st.integers(2, 255))
@settings(deadline=None)
def test_a_value_survives_encoding_and_decoding(value, bins):
    code = TwoHot(bins)
    probabilities = code.encode(torch.tensor(value))
    assert probabilities.shape == (bins,)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert (probabilities >= 0).all()
    hot = probabilities.nonzero().flatten()
    assert len(hot) <= 2
    assert hot[-1] - hot[0] <= 1
    # float32 holds symlog(x) up to 10 to about 1e-5, which symexp turns into a share of 1 + |x|
    assert float(code.decode(probabilities.log())) == pytest.approx(value, abs=1e-4 * (1 + abs(value)))


@given(st.floats(22032.0, 2.0**100, width=32))
@settings(deadline=None)
def test_values_beyond_the_outermost_bins_are_clipped(value):
    code = TwoHot()
    for sign in (1, -1):
        decoded = float(code.decode(code.encode(torch.tensor(sign * value)).log()))
        assert decoded == pytest.approx(sign * math.expm1(10), rel=1e-4)


def test_codes_keep_leading_dimensions_and_zero_logits_mean_zero():
    code = TwoHot(bins=21)
    assert code.encode(torch.zeros(2, 3)).shape == (2, 3, 21)
    torch.testing.assert_close(code.decode(torch.zeros(2, 3, 21)), torch.zeros(2, 3), rtol=0, atol=1e-5)


def test_the_two_hot_loss_is_least_at_the_code_itself():
    code = TwoHot(bins=21)
    value = torch.tensor([-3.0, 0.0, 0.4, 100.0])
    target = code.encode(value)
    least = torch.special.entr(target).sum(-1)
    torch.testing.assert_close(code.loss(target.clamp(min=1e-30).log(), value), least, rtol=1e-4, atol=1e-5)
    logits = torch.randn(4, 21, requires_grad=True)
    loss = code.loss(logits, value)
    assert (loss > least).all()
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - target, rtol=1e-4, atol=1e-6)


def test_values_and_losses_are_exact_where_networks_compute_in_half():
    code = TwoHot()
    value = torch.linspace(-300, 300, 101)
    logits = code.encode(value).clamp(min=1e-30).log()
    with torch.autocast("cpu", torch.bfloat16):
        decoded, loss = code.decode(logits), code.loss(logits, value)
    torch.testing.assert_close(decoded, value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, code.loss(logits, value))


@given(st.floats(-1e6, 1e6, width=32))
def test_symexp_inverts_symlog_which_is_odd(value):
    x = torch.tensor(value)
    assert float(symexp(symlog(x))) == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert symlog(-x) == -symlog(x)


def test_reward_and_value_begin_at_zero():
    z, action = torch.randn(5, 2, 6), torch.randn(5, 2, 3)
    reward = RewardHead(6, 3, hidden=16, bins=21)(z, action)
    values = Critics(4, 6, 3, hidden=16, bins=21)(z, action)
    assert reward.shape == (5, 2, 21)
    assert values.shape == (4, 5, 2, 21)
    assert not reward.any()
    assert not values.any()


DIM, ACTION = 6, 3


def policy(mean=0.0, raw=0.0):
    """A policy whose squashed Gaussian has about these parameters, varied by the embedding."""
    torch.manual_seed(0)
    policy = Policy(DIM, ACTION, hidden=16)
    torch.nn.init.normal_(policy.out.weight, std=0.3)
    with torch.no_grad():
        policy.out.bias.copy_(torch.tensor([mean] * ACTION + [raw] * ACTION))
    return policy


def squashed_gaussian(policy, z):
    """The policy's distribution by torch's own transforms, in float64."""
    mean, raw = policy.out(policy.net(z)).double().chunk(2, -1)
    low, high = policy.LOG_STD
    std = (low + (high - low) * (raw.tanh() + 1) / 2).exp()
    return TransformedDistribution(Independent(Normal(mean, std), 1), TanhTransform())


def test_the_surprise_of_an_action_is_its_negative_log_density():
    prior = policy(raw=0.6)
    z = torch.randn(500, 4, DIM)
    with torch.no_grad():
        action, surprise = prior(z)
        expected = -squashed_gaussian(prior, z).log_prob(action.double())
    assert action.shape == (500, 4, ACTION)
    assert surprise.shape == (500, 4)
    # near ±1 a float32 action no longer tells what was drawn
    told = (action.abs() < 0.99).all(-1)
    assert told.float().mean() > 0.5
    torch.testing.assert_close(surprise.double()[told], expected[told], rtol=1e-3, atol=1e-3)


def test_actions_follow_the_squashed_gaussian():
    prior = policy(mean=0.3, raw=0.6)
    z = torch.randn(DIM)
    with torch.no_grad():
        actions, surprise = prior(z.expand(20_000, DIM))
        reference = squashed_gaussian(prior, z)
        expected = reference.sample((20_000,))
    assert (actions.abs() <= 1).all()
    for q in (0.1, 0.5, 0.9):
        torch.testing.assert_close(
            actions.double().quantile(q, 0), expected.quantile(q, 0), rtol=0, atol=0.03
        )
    # the mean surprise is the entropy, which the squashing can only lower from the Gaussian's
    assert surprise.mean() < reference.base_dist.entropy()


@pytest.mark.parametrize("mean", [-1e4, -20.0, 20.0, 1e4])
def test_surprise_and_its_gradient_stay_finite_where_actions_saturate(mean):
    prior = policy(mean=mean, raw=5.0)
    action, surprise = prior(torch.randn(10, DIM))
    assert torch.isfinite(surprise).all()
    (action.sum() + surprise.sum()).backward()
    for name, parameter in prior.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_actions_carry_gradients_to_the_policy():
    prior = policy()
    prior(torch.randn(10, DIM))[0].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters())
