"""Mixtures over pairs: prototypes, a growing neural gas, and a memory bank, each against what it must be."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as td
from torch.utils._python_dispatch import TorchDispatchMode

from gje_world.beliefs import DiagonalGaussian, Point, make_head
from gje_world.objectives import (
    ConditionalGJE,
    MixtureDensityGMJE,
    NeuralGasGMJE,
    ParticleGMJE,
    PrototypeGMJE,
)
from gje_world.objectives.gmje_smc import systematic

DIM = 3


def two_ways(count, generator):
    """Pairs whose target lies at +2 or -2 in every dimension, by the sign of the context's first."""
    context = torch.randn(count, DIM, generator=generator)
    sign = context[:, :1].sign()
    return context, 2 * sign + 0.1 * torch.randn(count, DIM, generator=generator)


def dense(objective):
    """The mixture over pairs of a `PrototypeGMJE` as a torch distribution in float64."""
    scale = objective.scale(objective.raw_scale).double()
    eye = torch.eye(2 * DIM, dtype=torch.float64)
    factor = (eye + objective.mixing.double().tril(-1)) / scale.unsqueeze(-1)
    precision = factor.mT @ factor
    return td.MixtureSameFamily(
        td.Categorical(logits=objective.logits.double()),
        td.MultivariateNormal(objective.centres.double(), precision_matrix=precision),
    ), precision.inverse()


def test_the_loss_of_prototypes_is_the_conditional_density_of_their_mixture():
    torch.manual_seed(0)
    objective = PrototypeGMJE(DIM, prototypes=5)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    context, target = torch.randn(7, 4, DIM), torch.randn(7, 4, DIM)
    joint, covariance = dense(objective)
    marginal = td.MixtureSameFamily(
        joint.mixture_distribution,
        td.MultivariateNormal(objective.centres.double()[:, :DIM], covariance[:, :DIM, :DIM]),
    )
    both, one = torch.cat([context, target], -1).double(), context.double()
    expected = -(joint.log_prob(both) - marginal.log_prob(one)) / DIM
    torch.testing.assert_close(objective.couple(context, target).double(), expected, rtol=1e-4, atol=1e-5)


def test_prototypes_learn_which_way_the_target_lies():
    torch.manual_seed(0)
    objective = PrototypeGMJE(DIM, prototypes=4)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    for _ in range(400):
        loss = objective.couple(*two_ways(128, None)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    context, target = two_ways(500, None)
    far = context[:, 0].abs() > 0.5  # where the way is clear
    assert (
        objective.couple(context[far], target[far]).mean() < 0.2
    )  # the noise alone: -0.88; one Gaussian: 1.6


def test_a_mixture_density_network_is_the_conditional_with_a_mixture():
    belief = make_head("mixture", 5, DIM, components=3)(torch.randn(6, 5))
    target = torch.randn(6, DIM)
    loss = MixtureDensityGMJE(DIM).predict(belief, target)
    torch.testing.assert_close(loss, ConditionalGJE(DIM).predict(belief, target))
    assert MixtureDensityGMJE(DIM).beliefs == ("mixture",)


# ---- the growing neural gas ----


def test_the_gas_grows_until_it_covers_the_pairs_and_no_further():
    torch.manual_seed(0)
    objective = NeuralGasGMJE(DIM, nodes=12)
    assert int(objective.alive.sum()) == 2
    for _ in range(600):
        objective.couple(*two_ways(128, None))
    assert 6 <= int(objective.alive.sum()) <= 12
    pair = torch.cat(two_ways(500, None), -1)
    centres = objective.centres[objective.alive]
    error = torch.cdist(pair, centres).square().min(1).values.mean()
    assert error < 0.5 * pair.square().sum(-1).mean()
    ways = centres[:, DIM:].sign()
    assert (ways.sum(-1).abs() == DIM).float().mean() > 0.8  # few nodes between the two ways
    assert objective.age.isfinite().any(0)[objective.alive].all()  # nobody is alone


def test_the_gas_is_symmetric_and_its_loss_is_that_of_its_mixture():
    torch.manual_seed(0)
    objective = NeuralGasGMJE(DIM, nodes=6)
    for _ in range(200):
        objective.couple(*two_ways(64, None))
    torch.testing.assert_close(objective.age, objective.age.T)
    objective.eval()
    context, target = two_ways(50, None)
    alive, std = objective.alive, objective.variance.sqrt().double()
    weights = td.Categorical(probs=objective.count[alive].double())
    centres = objective.centres[alive].double()
    joint = td.MixtureSameFamily(weights, td.Independent(td.Normal(centres, std), 1))
    part = td.MixtureSameFamily(weights, td.Independent(td.Normal(centres[:, :DIM], std[:DIM]), 1))
    expected = (
        -(joint.log_prob(torch.cat([context, target], -1).double()) - part.log_prob(context.double())) / DIM
    )
    torch.testing.assert_close(objective.couple(context, target).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_node_moves_as_its_samples_would_have_moved_it_one_by_one():
    objective = NeuralGasGMJE(1, nodes=2)
    start = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    objective.centres.copy_(start)
    same = torch.tensor([[1.0, -1.0]])
    batch = same.repeat(4, 1)
    objective._pull(batch, torch.tensor([[1.0, 0.0]]).repeat(4, 1), 0.05)
    expected = start[0]
    for _ in range(4):
        expected = expected + 0.05 * (same[0] - expected)
    torch.testing.assert_close(objective.centres[0], expected)
    torch.testing.assert_close(objective.centres[1], start[1])


def test_a_gas_that_rests_does_not_change():
    objective = NeuralGasGMJE(DIM).eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.couple(torch.randn(8, DIM), torch.randn(8, DIM))
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


# ---- the memory bank ----


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_without_a_bank_the_loss_is_infonce(bandwidth):
    torch.manual_seed(0)
    context, target = torch.randn(16, DIM), torch.randn(16, DIM)
    loss = ParticleGMJE(DIM, particles=0, bandwidth=bandwidth).couple(context, target)
    logits = -0.5 * torch.cdist(context, target).square() / bandwidth**2
    expected = (F.cross_entropy(logits, torch.arange(16), reduction="none") - math.log(16)) / DIM
    torch.testing.assert_close(loss, expected)


def test_of_two_views_a_context_is_told_from_targets_of_the_other_alone():
    """What it was made from is no negative."""
    torch.manual_seed(0)
    views = torch.randn(2, 16, DIM)
    objective = ParticleGMJE(DIM, particles=0)
    apart = [objective.couple(views[i], views[1 - i]) for i in range(2)]
    torch.testing.assert_close(objective.couple(views, views.flip(0)), torch.stack(apart))


def test_on_the_sphere_that_is_infonce_of_cosines():
    torch.manual_seed(0)
    context, target = (F.normalize(torch.randn(16, DIM), dim=-1) for _ in range(2))
    loss = ParticleGMJE(DIM, particles=0, bandwidth=0.3).couple(context, target)
    expected = F.cross_entropy(context @ target.T / 0.3**2, torch.arange(16), reduction="none") - math.log(16)
    torch.testing.assert_close(loss, expected / DIM, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_log_ratio_of_the_kernel_and_the_weighted_mixture():
    torch.manual_seed(0)
    objective = ParticleGMJE(DIM, particles=20).eval()
    objective.weights.copy_(torch.rand(20).softmax(0))
    context, target = torch.randn(10, DIM), torch.randn(10, DIM)
    weights = torch.cat([20 * objective.weights, torch.ones(10)]) / 30
    pool = torch.cat([objective.particles, target])
    kernel = td.Independent(td.Normal(pool, 1.0), 1)
    mixture = td.MixtureSameFamily(td.Categorical(probs=weights), kernel)
    own = td.Independent(td.Normal(target, 1.0), 1)
    expected = -(own.log_prob(context) - mixture.log_prob(context)) / DIM
    torch.testing.assert_close(objective.couple(context, target), expected, rtol=1e-4, atol=1e-5)


def test_particles_near_the_contexts_outlive_the_others():
    torch.manual_seed(0)
    objective = ParticleGMJE(2, particles=64)
    objective.particles[:32] += 3.0  # where contexts will be
    objective.particles[32:] -= 30.0
    for _ in range(3):
        context = 3.0 + torch.randn(8, 2)
        objective.couple(context, context)
    assert (objective.particles > -5).all()
    assert float(objective.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_the_newest_targets_stand_last_at_equal_weight():
    torch.manual_seed(0)
    objective = ParticleGMJE(2, particles=10)
    target = torch.randn(4, 2)
    objective.couple(torch.randn(4, 2), target)
    torch.testing.assert_close(objective.particles[-4:], target)
    assert objective.weights[-4:].std() < 1e-7
    big = torch.randn(30, 2)
    objective.couple(big, big)  # a batch larger than the bank
    torch.testing.assert_close(objective.particles, big[-10:])


def test_systematic_resampling_gives_each_its_due_and_keeps_the_order():
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 0.0, 0.25, 0.05, 0.2])
    counts = torch.zeros(5)
    for _ in range(400):
        index = systematic(weights)
        assert (index.diff() >= 0).all()
        found = torch.bincount(index, minlength=5)
        assert ((found - 5 * weights).abs() < 1).all()
        counts += found
    torch.testing.assert_close(counts / 2000, weights, rtol=0, atol=0.01)


@pytest.mark.parametrize("objective", [PrototypeGMJE, NeuralGasGMJE, ParticleGMJE])
def test_two_predictions_before_one_gradient_step(objective):
    """Views predict each other: both losses are taken before either gradient."""
    torch.manual_seed(0)
    module = objective(DIM)
    views = [torch.randn(16, DIM, requires_grad=True) for _ in range(2)]
    loss = sum(module.predict(Point(a), b).mean() for a, b in (views, reversed(views)))
    loss.backward()
    assert all(view.grad.isfinite().all() for view in views)


@pytest.mark.parametrize("objective", [PrototypeGMJE, NeuralGasGMJE, ParticleGMJE])
def test_extreme_inputs_give_finite_losses_and_gradients(objective):
    for scale in (0.0, 1e-4, 1e3):
        torch.manual_seed(0)
        module = objective(DIM)
        mean = (scale * torch.randn(16, DIM)).requires_grad_()
        belief = DiagonalGaussian(mean, torch.ones_like(mean))
        for _ in range(3):
            loss = module.predict(belief, scale * torch.randn(16, DIM)).mean()
            loss.backward()
        assert loss.isfinite() and mean.grad.isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_bank_far_from_the_origin_keeps_its_digits(offset):
    torch.manual_seed(0)
    objective = ParticleGMJE(64, particles=32).eval()
    context, target = torch.randn(2, 16, 64)
    near = objective.couple(context, target)
    objective.particles += offset
    far = objective.couple(context + offset, target + offset)
    torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-4)


class Synced(TorchDispatchMode):
    """Counts what a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [NeuralGasGMJE, ParticleGMJE, PrototypeGMJE])
def test_no_value_is_read_back_while_learning(make):
    objective, z = make(8), torch.randn(64, 8)
    belief = DiagonalGaussian(z, torch.ones_like(z))
    with Synced() as synced:
        objective.predict(belief, torch.randn(64, 8)).mean()
    assert synced.count == 0
