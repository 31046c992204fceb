"""A world small enough to learn in seconds: a point that is pushed about, seen as a bright spot."""

import pytest
import torch

from gje_world import WorldModel, WorldModelConfig
from gje_world.evaluation import collapse_gauges, linear_probe_r2
from gje_world.objectives import make_objective

SIZE, DIM, BATCH = 16, 8, 128


def render(state):
    """Images `[N, 1, 16, 16]`, uint8, of a soft spot at `state [N, 2]`; the picture reaches to ±2."""
    profile = torch.exp(-((torch.linspace(-2, 2, SIZE) - state.unsqueeze(-1)) / 0.8).square())  # [N, 2, 16]
    return (255 * profile[:, 0, :, None] * profile[:, 1, None, :]).to(torch.uint8).unsqueeze(1)


def transitions(count, generator):
    """Observations `[2, N, 1, 16, 16]` before and after, actions, states of `x' = 0.9 x + 0.3 a + noise`."""
    state = 0.4 * torch.randn(count, 2, generator=generator)
    action = 2 * torch.rand(count, 2, generator=generator) - 1
    after = 0.9 * state + 0.3 * action + 0.1 * torch.randn(count, 2, generator=generator)
    return torch.stack([render(state), render(after)]), action, state


def learn(marginal_weight, updates):
    """A world model after so many updates, and the likelihood loss of each."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    world = WorldModel(WorldModelConfig(dim=DIM, hidden=64, encoder_width=8), (1, SIZE, SIZE), action_dim=2)
    world.encoder.centre_on(transitions(1000, generator)[0][0])
    objective = make_objective("gje_conditional", DIM, marginal_weight=marginal_weight)
    optimizer = torch.optim.Adam(world.parameters(), lr=1e-3)
    losses = []
    for _ in range(updates):
        obs, action, _ = transitions(BATCH, generator)
        z = world.embed(obs)
        nll = objective.predict(world.believe(z[0], action), z[1]).mean()
        optimizer.zero_grad()
        (nll + objective.marginal(z)).backward()
        torch.nn.utils.clip_grad_norm_(world.parameters(), 1.0)
        optimizer.step()
        losses.append(nll.item())
    return world, losses


@pytest.fixture(scope="module")
def learnt():
    # at weight λ > 1 a predictable embedding has its best scale at sqrt(1 - 1/λ), here 0.71
    return learn(marginal_weight=2.0, updates=500)


@pytest.fixture(scope="module")
def held_out(learnt):
    """Embeddings before and after, beliefs, and states of transitions that were not trained on."""
    world, _ = learnt
    obs, action, state = transitions(2000, torch.Generator().manual_seed(1))
    with torch.no_grad():
        z = world.embed(obs)
        return z[0], z[1], world.believe(z[0], action), state


def test_the_likelihood_improves(learnt):
    _, losses = learnt
    assert sum(losses[-50:]) / 50 < sum(losses[:10]) / 10 - 0.3


def test_embeddings_do_not_collapse(held_out):
    gauges = collapse_gauges(held_out[0])
    assert 0.45 < gauges["embedding/std"] < 0.9
    assert gauges["embedding/effective_rank"] > 0.75 * DIM


def test_without_the_marginal_term_they_do():
    world, losses = learn(marginal_weight=0.0, updates=100)
    with torch.no_grad():
        z = world.embed(transitions(500, torch.Generator().manual_seed(1))[0])
    assert collapse_gauges(z)["embedding/std"] < 0.1
    assert losses[-1] < -2  # and the likelihood alone praises it


def test_the_true_state_can_be_read_off_the_embedding(held_out):
    z, _, _, state = held_out
    r2 = linear_probe_r2(z[:1000], state[:1000], z[1000:], state[1000:])
    assert (r2 > 0.75).all()


def test_beliefs_about_the_next_embedding_explain_it_and_are_roughly_calibrated(held_out):
    _, after, belief, _ = held_out
    assert (after - belief.mean).square().mean() < 0.6 * after.var(0).mean()
    mass = belief.coverage(after)
    assert 0.35 < (mass <= 0.5).float().mean() < 0.8
    assert 0.8 < (mass <= 0.9).float().mean() < 0.97
