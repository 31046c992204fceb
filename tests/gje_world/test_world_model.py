"""The world model: embeddings, beliefs over the next one, and futures sampled from them."""

import pytest
import torch

from gje_world import WorldModel, WorldModelConfig
from gje_world.objectives import make_objective

DIM, ACTION, SIZE = 16, 2, 16


def world(belief="diagonal", **options):
    torch.manual_seed(0)
    config = WorldModelConfig(dim=DIM, hidden=32, encoder_width=4, **options)
    model = WorldModel(config, (3, SIZE, SIZE), ACTION, belief)
    # an untrained head gives every embedding the same belief: make it tell them apart
    torch.nn.init.normal_(model.head.linear.weight, std=0.3)
    return model


def pixels(*lead):
    return torch.randint(0, 256, (*lead, 3, SIZE, SIZE), dtype=torch.uint8)


def test_a_batch_in_time_is_embedded_frame_by_frame():
    model, obs = world(), pixels(4, 5)
    z = model.embed(obs)
    assert z.shape == (4, 5, DIM)
    expected = torch.stack([torch.cat([model.embed(frame[None]) for frame in step]) for step in obs])
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)


def test_the_belief_is_over_the_next_embedding_and_depends_on_state_and_action():
    model = world()
    z, action = torch.randn(4, 5, DIM), torch.rand(4, 5, ACTION) * 2 - 1
    belief = model.believe(z, action)
    assert belief.batch_shape == (4, 5)
    assert belief.event_shape == (DIM,)
    for other in (model.believe(z, -action), model.believe(-z, action)):
        assert not torch.allclose(belief.mean, other.mean, atol=1e-3)
        assert not torch.allclose(belief.variance, other.variance, atol=1e-3)


def test_the_belief_depends_on_whether_observations_were_augmented():
    model = world()
    z, action = torch.randn(6, DIM), torch.rand(6, ACTION)
    augmented = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])[:, None]
    both, none = model.believe(z, action, augmented), model.believe(z, action)
    torch.testing.assert_close(both.variance[:3], none.variance[:3])
    assert not torch.isclose(both.variance[3:], none.variance[3:]).all(-1).any()
    path = model.unroll(z, action.expand(2, -1, -1), augmented)
    error = (path[1] - both.mean) / both.stddev
    assert (error.abs() < 6).all()


def test_unrolling_follows_the_samples():
    model = world()
    z, action = torch.randn(5, DIM, requires_grad=True), torch.rand(3, 5, ACTION) * 2 - 1
    path = model.unroll(z, action)
    assert path.shape == (4, 5, DIM)
    assert torch.equal(path[0], z)
    belief = model.believe(path[:-1], action)
    assert ((path[1:] - belief.mean).abs() < 6 * belief.stddev).all()
    path[-1].sum().backward()
    assert z.grad.abs().sum() > 0  # through every sample


@pytest.mark.parametrize("steps, particles, batch", [(1, 1, 1), (3, 4, 5), (3, 1, 5)])
def test_imagined_futures_have_time_then_particles_then_batch(steps, particles, batch):
    futures = world().imagine(torch.randn(batch, DIM), torch.rand(steps, batch, ACTION), particles)
    assert futures.shape == (steps, particles, batch, DIM)


def test_particles_of_the_first_step_are_samples_of_the_belief():
    model, particles = world(), 20_000
    z, action = torch.randn(2, DIM), torch.rand(1, 2, ACTION)
    with torch.no_grad():
        belief = model.believe(z, action[0])
        first = model.imagine(z, action, particles)[0]
    error = belief.stddev / particles**0.5
    assert ((first.mean(0) - belief.mean).abs() < 5 * error).all()
    torch.testing.assert_close(first.std(0), belief.stddev, rtol=0.03, atol=0)


def test_particles_go_their_own_ways():
    model = world()
    z, action = torch.randn(1, DIM).expand(2, DIM), torch.rand(3, 1, ACTION).expand(3, 2, ACTION)
    with torch.no_grad():
        futures = model.imagine(z, action, particles=8)
    for step in futures:
        flat = step.flatten(0, 1)  # equal rows of a batch differ like particles of one row
        assert torch.cdist(flat, flat)[~torch.eye(16, dtype=torch.bool)].min() > 0.1


def test_later_steps_start_from_the_particles_of_the_step_before():
    # beliefs with (almost) no variance: the futures are then the chain of means
    model = world()
    model.head.scale.middle, model.head.scale.reach = -19.5, 0.5
    z, action = torch.randn(5, DIM), torch.rand(3, 5, ACTION) * 2 - 1
    with torch.no_grad():
        futures = model.imagine(z, action, particles=2)
        for t, step in enumerate(action):
            z = model.believe(z, step).mean
            torch.testing.assert_close(futures[t], z.expand(2, 5, DIM), rtol=0, atol=1e-4)


def test_without_uncertainty_all_particles_agree():
    model = world("point", simplicial=True)
    futures = model.imagine(torch.randn(5, DIM), torch.rand(3, 5, ACTION), particles=4)
    assert torch.equal(futures, futures[:, :1].expand_as(futures))


def test_simplicial_worlds_keep_embeddings_and_predictions_on_simplices():
    model = world("point", simplicial=True)
    z = model.embed(pixels(5))
    for vectors in (z, model.believe(z, torch.rand(5, ACTION)).mean):
        torch.testing.assert_close(vectors.unflatten(-1, (-1, 8)).sum(-1), torch.ones(5, DIM // 8))


def test_a_belief_over_directions_is_refused():
    with pytest.raises(ValueError, match="power_spherical is over directions alone; take belief=polar"):
        WorldModel(WorldModelConfig(dim=8), (3, 16, 16), 1, "power_spherical")


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square, got 16x32"):
        WorldModel(WorldModelConfig(), (3, 16, 32), ACTION)


def test_an_unknown_belief_is_refused_by_name():
    with pytest.raises(ValueError, match="'cauchy'"):
        WorldModel(WorldModelConfig(), (3, SIZE, SIZE), ACTION, "cauchy")


@pytest.mark.parametrize("belief", ["diagonal", "low_rank", "student_t", "ensemble"])
def test_the_spread_error_is_the_plain_likelihood_and_teaches_the_spread_alone(belief):
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8, hidden=16), (3, 16, 16), 1, belief=belief)
    z, z_target, action = torch.randn(64, 8, requires_grad=True), torch.randn(64, 8), torch.randn(64, 1)
    error = world.spread_error(world.features(z, action), z, z_target)
    believed = world.believe(z, action)
    torch.testing.assert_close(error, -believed.learning_log_prob(z_target) / 8)
    error.mean().backward()
    assert z.grad is None and all(p.grad is None for p in world.dynamics.parameters())
    if belief == "diagonal":  # whose head tells the mean first
        of_mean, of_spread = world.head.linear.weight.grad.split(8)
    elif belief == "student_t":
        of_mean, of_spread = world.head.mean.weight.grad, world.head.spread[-1].weight.grad
    else:
        return
    assert of_mean.abs().max() < 1e-7
    assert of_spread.abs().max() > 1e-4


def test_the_spread_error_leaves_modes_where_they_are():
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8, hidden=16), (3, 16, 16), 1, belief="mixture", components=3)
    z, z_target, action = torch.randn(64, 8), torch.randn(64, 8), torch.randn(64, 1)
    world.spread_error(world.features(z, action), z, z_target).mean().backward()
    weights, parts = world.head.linear.weight.grad.split((3, 3 * 2 * 8))
    means, scales = parts.unflatten(0, (3, 2, 8)).unbind(1)
    assert not weights.any() and means.abs().max() < 1e-7 and scales.abs().max() > 1e-4


@pytest.mark.parametrize("df", [3.0, 30.0])
def test_with_it_regions_of_a_student_t_hold_errors_that_share_a_scale_below_the_resolution(df):
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=16, hidden=32), (3, 16, 16), 1, "student_t")
    objective = make_objective("gje_conditional", 16, resolution=0.35)

    def draw(count):
        z, action = torch.randn(count, 16), torch.randn(count, 1)
        mixing = torch.distributions.Gamma(df / 2, df / 2).sample((count, 1))
        return z, action, z + 0.1 * torch.randn(count, 16) / mixing.sqrt()

    optimizer = torch.optim.Adam([*world.dynamics.parameters(), *world.head.parameters()], lr=3e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 600)
    for _ in range(600):
        z, action, z_target = draw(128)
        features = world.features(z, action)
        loss = objective.predict(world.tell(features, z), z_target).mean()
        loss = loss + world.spread_error(features, z, z_target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    z, action, z_target = draw(4000)
    mass = world.believe(z, action).coverage(z_target)
    for level in (0.5, 0.9, 0.95):
        assert float((mass <= level).float().mean()) == pytest.approx(level, abs=0.04)


def test_with_it_regions_hold_errors_far_finer_than_the_resolution():
    torch.manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=8, hidden=32), (3, 16, 16), 1)
    objective = make_objective("gje_conditional", 8, resolution=0.35)
    shares = []
    for calibrated in (False, True):
        optimizer = torch.optim.Adam([*world.dynamics.parameters(), *world.head.parameters()], lr=3e-3)
        for _ in range(300):
            z, action = torch.randn(128, 8), torch.randn(128, 1)
            z_target = z + 0.02 * torch.randn(128, 8)
            loss = objective.predict(world.believe(z, action), z_target).mean()
            if calibrated:
                loss = loss + world.spread_error(world.features(z, action), z, z_target).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        belief = world.believe(z, action)
        shares.append(float((belief.coverage(z_target) <= 0.5).float().mean()))
    assert shares[0] > 0.9 and abs(shares[1] - 0.5) < 0.15
