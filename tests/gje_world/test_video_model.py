"""The video model: what it may look at, and its beliefs several steps ahead against an exact law."""

from functools import partial

import pytest
import torch
from torch import nn

from gje_world.beliefs import HEADS, DiagonalGaussian
from gje_world.networks import ConvEncoder
from gje_world.video_model import PREDICTORS, PredictorConfig, VideoModel

D, A, HISTORY = 6, 2, 4


def model(predictor="transformer", belief="diagonal", action_dim=A, **options):
    torch.manual_seed(0)
    config = PredictorConfig(name=predictor, history=HISTORY, hidden=16, layers=2, heads=2)
    made = VideoModel(ConvEncoder(6, D, 16, 4), config, action_dim, belief, frame_stack=2, **options)
    for parameter in made.predictor.parameters():  # gates and modulations begin at zero, which hides much
        nn.init.normal_(parameter, std=0.3)
    return made


def sequence(length, batch=3, action_dim=A):
    torch.manual_seed(1)
    return torch.randn(batch, length, D), torch.randn(batch, length, action_dim)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_belief_depends_on_the_last_few_embeddings_and_actions_and_on_nothing_later(predictor):
    world, (z, action) = model(predictor), sequence(9)

    def mean_at(place):
        return lambda z, action: world.believe_each(z, action).mean[:, place].sum()

    for place in range(9):
        to_z, to_action = (
            grad.abs().sum((0, 2)) > 0
            for grad in torch.autograd.functional.jacobian(mean_at(place), (z, action))
        )
        seen = torch.arange(9)
        seen = (seen <= place) & (seen > place - HISTORY)
        assert torch.equal(to_z, seen), place
        assert torch.equal(to_action, seen), place


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("action_dim", [0, A])
def test_a_belief_is_the_same_alone_and_in_its_sequence(predictor, action_dim):
    world, (z, action) = model(predictor, action_dim=action_dim), sequence(9, action_dim=action_dim)
    each = world.believe_each(z, action)
    for place in (0, 2, 3, 4, 8):
        alone = world.believe(z[:, : place + 1], action[:, : place + 1])
        torch.testing.assert_close(alone.mean, each.mean[:, place])
        torch.testing.assert_close(alone.stddev, each.stddev[:, place])
    turned = world.believe_each(z, action, time_first=True)
    assert torch.equal(turned.mean.movedim(0, 1), each.mean)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_new_model_expects_the_world_to_stay_nearly_as_it_is(predictor):
    torch.manual_seed(0)
    config = PredictorConfig(name=predictor, history=HISTORY, hidden=16, heads=2)
    world, (z, action) = VideoModel(ConvEncoder(3, D, 16, 4), config, A), sequence(6)
    assert (world.believe_each(z, action).mean - z).abs().max() < 0.5


@pytest.mark.parametrize("belief", sorted(HEADS.keys() - {"power_spherical"}))
def test_every_belief_can_be_imagined_with(belief):
    world, (z, action) = model(belief=belief), sequence(7)
    futures = world.imagine(z[:, :3], action[:, :7], particles=5)
    assert futures.shape == (5, 5, 3, D)
    assert futures.isfinite().all()


def test_futures_of_nothing_are_refused():
    world, (z, action) = model(), sequence(3)
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        world.imagine(z, action, particles=0)
    with pytest.raises(ValueError, match="a history of 3 embeddings needs as many actions or more"):
        world.imagine(z, action[:, :2], particles=2)


class Linear(nn.Module):
    """z' = z + M [z_before; z; a_before; a] with noise that does not depend on where it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.matrix = nn.Parameter(0.12 * torch.randn(2 * (D + A), D))

    def forward(self, z, action):
        before = [torch.cat([part[:, :1] * keep, part[:, :-1]], 1) for part, keep in ((z, 1), (action, 0))]
        return torch.cat([before[0], z, before[1], action], -1) @ self.matrix


def linear_model():
    world = model()
    world.history, world.predictor = 2, Linear()
    world.head = type(
        "Fixed", (nn.Module,), {"forward": lambda self, x: DiagonalGaussian(x, torch.full_like(x, 0.3))}
    )()
    return world


@torch.no_grad()
def test_moments_and_particles_come_to_the_exact_law_of_a_linear_model():
    world, (z, action) = linear_model(), sequence(3 + 4)
    z, action = z[:, :3], action[:, :6]
    matrix = world.predictor.matrix
    # the exact law of the pair (z_t, z_{t+1})
    shift = torch.zeros(2 * D, 2 * D)
    shift[:D, D:] = torch.eye(D)
    shift[D:, :D], shift[D:, D:] = matrix[:D].mT, matrix[D : 2 * D].mT + torch.eye(D)
    mean, covariance = z[:, 1:].flatten(1), torch.zeros(2 * D, 2 * D)
    torch.manual_seed(3)
    by_moments = world.propagate(z, action, "moments")
    by_particles = world.propagate(z, action, "particles", particles=4000)
    assert len(by_moments) == len(by_particles) == 4
    for step, (moments, particles) in enumerate(zip(by_moments, by_particles, strict=True)):
        pushed = torch.cat([action[:, step + 1], action[:, step + 2]], -1) @ matrix[2 * D :]
        mean = mean @ shift.mT + nn.functional.pad(pushed, (D, 0))
        covariance = shift @ covariance @ shift.mT + 0.09 * torch.block_diag(torch.zeros(D, D), torch.eye(D))
        torch.testing.assert_close(moments.mean, mean[:, D:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            moments.covariance_matrix, covariance[D:, D:].expand(3, D, D), atol=1e-4, rtol=1e-4
        )
        assert ((particles.mean - mean[:, D:]) / moments.stddev).abs().max() < 0.08
        torch.testing.assert_close(particles.stddev, moments.stddev, rtol=0.06, atol=0)


def test_moments_of_a_history_too_short_are_refused():
    world, (z, action) = linear_model(), sequence(4)
    with pytest.raises(ValueError, match="a history of at least 2 embeddings, got 1"):
        world.propagate(z[:, :1], action[:, :3], "moments")
    with pytest.raises(ValueError, match=r"a history of 4 embeddings needs as many .* got 3"):
        world.propagate(z, action[:, :3], "moments")


@torch.no_grad()
def test_a_belief_ahead_is_conditioned_on_a_goal_by_the_rule_of_bayes():
    world, (z, action) = linear_model(), sequence(3 + 4)
    z, action = z[:, :3], action[:, :6]
    law = world.propagate(z, action, "moments")[-1]
    goal = DiagonalGaussian(law.mean + 0.5, torch.full_like(law.mean, 0.4))
    gain = law.covariance_matrix @ torch.linalg.inv(law.covariance_matrix + goal.covariance_matrix)
    mean = law.mean + (gain @ (goal.mean - law.mean).unsqueeze(-1)).squeeze(-1)  # that of a Kalman filter
    covariance = law.covariance_matrix - gain @ law.covariance_matrix
    by_moments = world.condition(z, action, goal, "moments")
    torch.testing.assert_close(by_moments.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_moments.covariance_matrix, covariance, atol=1e-4, rtol=1e-4)
    torch.manual_seed(3)
    by_particles = world.condition(z, action, goal, particles=4000)
    assert ((by_particles.mean - mean) / by_moments.stddev).abs().max() < 0.1
    torch.testing.assert_close(by_particles.stddev, by_moments.stddev, rtol=0.08, atol=0)


def test_an_unrolled_belief_is_the_one_imagined_from_and_gives_gradients_to_the_past():
    world, (z, action) = model(belief="mixture"), sequence(7)
    z.requires_grad_()
    torch.manual_seed(5)
    beliefs = world.unroll(z[:, :3], action[:, :6], particles=3)
    assert [belief.batch_shape for belief in beliefs] == [(3,)] * 4
    torch.manual_seed(5)
    for belief, imagined in zip(beliefs, world.propagate(z[:, :3], action[:, :6], particles=3), strict=True):
        value = torch.randn(7, 3, D, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(belief.log_prob(value), imagined.log_prob(value))
    beliefs[-1].log_prob(torch.zeros(3, D)).sum().backward()
    assert z.grad[:, :3].abs().sum() > 0


def test_observations_are_stacked_oldest_first():
    frames = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(1, 5, 3, 1, 1)
    assert model().stacked(frames)[0, :, ::3, 0, 0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_a_frozen_encoder_stays_as_it_is_and_its_embeddings_are_brought_to_unit_scale():
    torch.manual_seed(0)
    encoder = ConvEncoder(3, D, 16, 4)
    world = VideoModel(encoder, PredictorConfig(hidden=16, heads=2), frozen=True)
    frames = torch.randint(256, (4, 8, 3, 16, 16), dtype=torch.uint8)
    world.centre_on(frames)
    z = world.embed(frames)
    assert not z.requires_grad
    torch.testing.assert_close(z.flatten(0, 1).mean(0), torch.zeros(D), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0))


@pytest.mark.parametrize("method", ["particles", "moments"])
def test_it_is_measured_at_the_precision_it_learns_at(method):
    world, frames = model(), torch.randint(256, (2, 6, 3, 16, 16), dtype=torch.uint8)
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    world.eval()
    with torch.no_grad(), half():
        learnt_at = world.embed(frames)
        told = world.believe_each(learnt_at, torch.zeros(2, 5, A)).mean
    world.autocast = half
    with torch.no_grad():
        z = world.embed(frames)
        assert torch.equal(z, learnt_at)
        assert torch.equal(world.believe_each(z, torch.zeros(2, 5, A)).mean, told)
        belief = world.propagate(z, torch.zeros(2, 7, A), method, particles=4)[-1]
        assert belief.mean.dtype == belief.covariance_matrix.dtype == torch.float32
        world.train()
        assert not torch.equal(world.embed(frames), learnt_at)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="predictor must be one of mlp, transformer; got 'rnn'"):
        model("rnn")
    with pytest.raises(ValueError, match="hidden must be a multiple of heads=3, got 16"):
        VideoModel(ConvEncoder(3, D, 16, 4), PredictorConfig(hidden=16, heads=3))
    world, (z, action) = model(), sequence(5)
    with pytest.raises(ValueError, match="method must be one of particles, moments; got 'magic'"):
        world.propagate(z[:, :3], action, "magic")


def test_actions_and_frames_that_do_not_fit_are_named():
    model = VideoModel(
        ConvEncoder(6, 4, 16, 2), PredictorConfig("mlp", 2, 8, 1), action_dim=2, frame_stack=2
    ).eval()
    z = torch.zeros(3, 4, 4)
    for method in ("particles", "moments"):
        with pytest.raises(ValueError, match=r"actions must be \[B, T', 2\] for this model, got \[3, 9, 0\]"):
            model.propagate(z, torch.zeros(3, 9, 0), method)
    with pytest.raises(ValueError, match=r"with T of 2 or more, got \[5, 1, 3, 16, 16\]"):
        model.embed(torch.zeros(5, 1, 3, 16, 16, dtype=torch.uint8))
