"""Beliefs several steps ahead against exact laws and Monte Carlo truth."""

import pytest
import torch

from gje_world import WorldModel, WorldModelConfig
from gje_world.beliefs import CovarianceGaussian, DiagonalGaussian, Mixture
from gje_world.propagation import propagate

B, D, T = 3, 4, 5


class Linear:
    """Linear dynamics with Gaussian noise, whose beliefs are known exactly."""

    def __init__(self):
        torch.manual_seed(0)
        self.matrix = 0.9 * torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0]
        self.push = torch.randn(2, D, dtype=torch.float64)
        self.std = 0.2 + torch.rand(D, dtype=torch.float64)

    def believe(self, z, action):
        mean = z @ self.matrix.mT + action @ self.push
        return DiagonalGaussian(mean, self.std.expand_as(mean))

    def exact(self, z, action):
        mean, covariance = z, torch.zeros(D, D, dtype=torch.float64)
        for step in action:
            mean = mean @ self.matrix.mT + step @ self.push
            covariance = self.matrix @ covariance @ self.matrix.mT + self.std.square().diag()
            yield mean, covariance


class Bent(Linear):
    """The same with a gentle nonlinearity, and noise that grows away from the origin."""

    def believe(self, z, action):
        mean = torch.tanh(z @ self.matrix.mT) + action @ self.push
        return DiagonalGaussian(mean, 0.1 * self.std * (1 + z.square().mean(-1, keepdim=True)).sqrt())


def start():
    torch.manual_seed(1)
    return torch.randn(B, D, dtype=torch.float64), torch.rand(T, B, 2, dtype=torch.float64)


def test_moments_are_exact_for_linear_dynamics():
    world, (z, action) = Linear(), start()
    for belief, (mean, covariance) in zip(
        propagate(world, z, action, "moments"), world.exact(z, action), strict=True
    ):
        torch.testing.assert_close(belief.mean, mean)
        torch.testing.assert_close(belief.covariance_matrix, covariance.expand(B, D, D))


def test_particles_come_to_the_exact_law_and_its_density():
    world, (z, action) = Linear(), start()
    torch.manual_seed(2)
    beliefs = propagate(world, z, action, "particles", particles=20_000)
    for belief, (mean, covariance) in zip(beliefs, world.exact(z, action), strict=True):
        oracle = CovarianceGaussian(mean, torch.linalg.cholesky(covariance).expand(B, D, D))
        assert ((belief.mean - mean) / oracle.stddev).abs().max() < 0.05
        assert (belief.covariance_matrix - covariance).abs().max() < 0.05
        value = oracle.sample((10,))
        # the tails rest on few particles
        assert (belief.log_prob(value) - oracle.log_prob(value)).abs().median() < 0.05


def test_both_agree_with_monte_carlo_where_the_world_is_bent():
    world, (z, action) = Bent(), start()
    torch.manual_seed(3)
    moments, particles = (propagate(world, z, action, method, 2_000) for method in ("moments", "particles"))
    cloud = z.expand(100_000, B, D)
    for step, by_moments, by_particles in zip(action, moments, particles, strict=True):
        cloud = world.believe(cloud, step.expand(100_000, B, 2)).sample()
        mean, std = cloud.mean(0), cloud.std(0)
        for belief, close in ((by_moments, 0.15), (by_particles, 0.1)):
            assert ((belief.mean - mean) / std).abs().max() < close
            assert (belief.stddev / std - 1).abs().max() < close


def test_particles_keep_the_branches_that_moments_blur():
    class Coin:
        def believe(self, z, action):
            means = torch.stack([z + 1, z - 1], -2)
            return Mixture(
                torch.full((*z.shape[:-1], 2), 0.5).log(),
                DiagonalGaussian(means, torch.full_like(means, 0.05)),
            )

    z, action = torch.zeros(1, 1), torch.zeros(2, 1, 1)
    torch.manual_seed(0)
    moments, particles = (
        propagate(Coin(), z, action, method, 400)[-1] for method in ("moments", "particles")
    )
    torch.testing.assert_close(moments.variance, particles.variance, rtol=0.05, atol=0.05)
    between, at = torch.tensor([[1.0]]), torch.tensor([[2.0]])
    assert particles.log_prob(at) - particles.log_prob(between) > 20
    assert moments.log_prob(at) < moments.log_prob(between)


@pytest.mark.parametrize(
    "belief", ["diagonal", "low_rank", "full", "spectral", "mixture", "student_t", "ensemble"]
)
@pytest.mark.parametrize("method", ["particles", "moments"])
def test_a_world_model_can_be_propagated_with_every_belief_that_has_a_covariance(belief, method):
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8, hidden=16, encoder_width=4), (3, 16, 16), 2, belief)
    with torch.no_grad():
        beliefs = propagate(world, torch.randn(B, 8), torch.rand(T, B, 2), method, particles=6)
    assert len(beliefs) == T
    for found in beliefs:
        assert found.batch_shape == (B,)
        assert found.sample((7,)).shape == (7, B, 8)
        assert found.log_prob(found.sample((7,))).isfinite().all()
    spreads = torch.stack([found.variance.mean() for found in beliefs])
    assert (spreads.diff() > 0).all()  # a new world expects to stay as it is, and errors add up


def test_moments_are_those_of_float32_in_an_autocast_region():
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8, hidden=16, encoder_width=4), (3, 16, 16), 1, belief="low_rank")
    z, action = torch.randn(B, 8), torch.randn(T, B, 1)
    found = []
    for region in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=region):
            found.append([b.covariance_matrix for b in propagate(world, z, action, method="moments")])
    torch.testing.assert_close(*found)


def test_methods_that_cannot_be_used_are_named():
    world, (z, action) = Linear(), start()
    with pytest.raises(ValueError, match="method must be one of particles, moments; got 'magic'"):
        propagate(world, z, action, "magic")
    torch.manual_seed(0)
    flow = WorldModel(WorldModelConfig(dim=8, hidden=16, encoder_width=4), (3, 16, 16), 2, "flow")
    with pytest.raises(ValueError, match=r"method=moments cannot be used: .*use method=particles"):
        propagate(flow, torch.randn(B, 8), torch.rand(T, B, 2), "moments")
