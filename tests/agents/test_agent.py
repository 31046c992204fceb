"""Targets, returns and losses of the agent against sums written out by hand."""

from __future__ import annotations

import pytest
import torch
from test_objectives_fit import agent_for, batch

from agents.agent import discount_for, stack_frames
from gje_world.beliefs import DiagonalGaussian

DISCOUNT = 0.95


@pytest.fixture
def agent():
    return agent_for("agent.critics=2")


def test_td_targets_are_rewards_then_the_lower_discounted_value_unless_the_episode_ended(agent, monkeypatch):
    values = torch.tensor([[10.0, 20.0, 30.0], [12.0, 18.0, 33.0]])  # [E, B]
    monkeypatch.setattr(agent.two_hot, "decode", lambda logits: values)
    reward = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # [T, B]
    terminated = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    data = batch(horizon=2, count=3)._replace(reward=reward, terminated=terminated)
    target = agent.td_target(torch.zeros(2, 3, 8), data)
    last = [4 + DISCOUNT * 10, 5 + DISCOUNT * 18, 6.0]
    expected = [[r + DISCOUNT * after for r, after in zip([1, 2, 3], last, strict=True)], last]
    torch.testing.assert_close(target, torch.tensor(expected))


@pytest.mark.parametrize("ends", [0.0, 0.25])
def test_a_candidates_return_is_the_sum_along_its_particles_futures(agent, monkeypatch, ends):
    horizon, particles, rows, candidates = 3, 2, 2, 4
    actions = torch.rand(horizon, rows, candidates, 1)
    z = torch.rand(rows, 8)
    drift = torch.tensor([0.1, -0.2])[:, None, None]  # of each particle

    def imagine(start, action, count):
        """Each step adds the action, and what is the particle's own, to every dimension."""
        assert count == particles
        path, now = [], start.expand(particles, *start.shape)
        for step in action:
            now = now + step + drift
            path.append(now)
        return torch.stack(path)

    monkeypatch.setattr(agent.world, "imagine", imagine)
    monkeypatch.setattr(agent.two_hot, "decode", lambda x: x)
    monkeypatch.setattr(agent.reward, "forward", lambda z, a: z.mean(-1) * a.squeeze(-1))
    monkeypatch.setattr(
        agent.critics, "forward", lambda z, a, pair: torch.stack([z.mean(-1) * (1 + 2 * e) for e in pair])
    )
    agent.particles = particles
    if ends:
        agent.terminates = True
        monkeypatch.setattr(agent.termination, "forward", lambda z, a: torch.full(z.shape[:-1], ends))
    found = agent.evaluate_sequences(z, actions)  # [P, B, N]
    keep = DISCOUNT * (1 - ends)
    for p in range(particles):
        for b in range(rows):
            for n in range(candidates):
                now, total, weight = z[b].mean(), 0.0, 1.0
                for t in range(horizon):
                    total = total + weight * now * actions[t, b, n, 0]
                    now, weight = now + actions[t, b, n, 0] + drift[p, 0, 0], weight * keep
                torch.testing.assert_close(found[p, b, n], total + weight * 2 * now)


def test_losses_along_the_path_are_of_the_state_before_and_weigh_each_step_by_its_place(monkeypatch):
    steps, rows = 3, 4
    weights = {"world": 0.3, "reward": 0.7, "value": 1.1}
    words = [f"agent.weights.{name}={value}" for name, value in weights.items()]
    agent = agent_for("agent.critics=2", "agent.temporal_decay=0.6", *words)
    agent.terminates = True
    path, z, target = torch.rand(steps + 1, rows, 8), torch.randn(steps + 1, rows, 8), torch.rand(steps, rows)
    data = batch(steps, rows)
    data = data._replace(reward=torch.rand(steps, rows), terminated=(data.action.squeeze(-1) > 0).float())
    monkeypatch.setattr(agent.world, "unroll", lambda *_: path)
    monkeypatch.setattr(agent, "td_target", lambda *_: target)
    monkeypatch.setattr(agent.two_hot, "loss", lambda found, right: (found - right).abs())
    monkeypatch.setattr(agent.reward, "forward", lambda z, a: z.sum(-1) * a.squeeze(-1))
    monkeypatch.setattr(agent.critics, "forward", lambda z, a: torch.stack([z.sum(-1), 2 * z.sum(-1)]))
    monkeypatch.setattr(agent.termination, "logit", lambda z, a: z.mean(-1))
    total, _, parts, _ = agent.world_and_value_loss(z, z[1:], data, torch.zeros(rows, 1))
    reward = value = ended = 0.0
    for t in range(steps):
        for b in range(rows):
            here, share = path[t, b], 0.6**t / (steps * rows)
            reward += share * (here.sum() * data.action[t, b, 0] - data.reward[t, b]).abs()
            value += share * sum((k * here.sum() - target[t, b]).abs() for k in (1, 2)) / 2
            chance = here.mean().sigmoid()
            ended -= share * (chance if data.terminated[t, b] else 1 - chance).log()
    torch.testing.assert_close(parts["loss/reward"], reward)
    torch.testing.assert_close(parts["loss/value"], value)
    torch.testing.assert_close(parts["loss/termination"], ended)
    world = parts["loss/nll"] + parts["loss/marginal"] + parts["loss/spread"]
    told = weights["reward"] * (reward + ended) + weights["value"] * value
    torch.testing.assert_close(total, weights["world"] * world + told)


def test_where_critics_tell_nothing_the_policy_comes_to_be_unsure(agent, monkeypatch):
    monkeypatch.setattr(agent.two_hot, "decode", lambda logits: logits)
    monkeypatch.setattr(agent.critics, "forward", lambda z, a: torch.zeros(2, *a.shape[:-1]))
    agent.config.entropy = 0.1
    path = torch.randn(4, 64, 8)
    optimizer = torch.optim.SGD(agent.policy.parameters(), 1.0)
    before = float(agent.policy(path)[1].mean().detach())
    for _ in range(20):
        optimizer.zero_grad()
        agent.policy_loss(path).backward()
        optimizer.step()
    assert float(agent.policy(path)[1].mean().detach()) > before


def test_the_policys_loss_does_not_teach_the_critics():
    agent = agent_for("agent.weights.value=0", "agent.critics=2")
    policy = [p.detach().clone() for p in agent.policy.parameters()]
    # from critics that know nothing the policy learns nothing but to be unsure
    torch.nn.init.normal_(agent.critics.net.last.weight)
    critics = [p.detach().clone() for p in agent.critics.parameters()]
    agent.update(batch(), gauges=False)
    assert all(torch.equal(a, b) for a, b in zip(critics, agent.critics.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(policy, agent.policy.parameters(), strict=True))


def test_targets_come_from_critics_that_follow_slowly(agent):
    data = batch()
    z = torch.randn(len(data.reward), data.reward.shape[1], 8)
    torch.manual_seed(0)
    before = agent.td_target(z, data)
    with torch.no_grad():
        for parameter in agent.critics.parameters():
            parameter.add_(1.0)
    torch.manual_seed(0)
    torch.testing.assert_close(agent.td_target(z, data), before)
    old = [p.clone() for p in agent.target_critics.parameters()]
    agent.update(data, gauges=False)
    rate = agent.config.target_rate
    for was, now, online in zip(
        old, agent.target_critics.parameters(), agent.critics.parameters(), strict=True
    ):
        torch.testing.assert_close(now, was + rate * (online - was))


def test_discounts_are_of_the_episodes_length():
    assert discount_for(125) == pytest.approx(0.96)
    assert discount_for(1) == pytest.approx(0.95) and discount_for(10**6) == pytest.approx(0.995)


def test_gauges_are_of_the_sequences_that_were_not_shifted(agent):
    z = torch.randn(4, 8, 8)
    mean = z[:-1].clone()
    mean[:, :2] = z[1:, :2]  # right of the first two alone
    belief = DiagonalGaussian(mean, torch.full_like(mean, 0.1))
    assert agent.gauges(z, belief, 2)["belief/coverage_50"] == 1
    assert agent.gauges(z, belief, 0)["belief/coverage_50"] == pytest.approx(0.25)


def test_the_policy_climbs_its_critics(agent, monkeypatch):
    monkeypatch.setattr(agent.two_hot, "decode", lambda logits: logits)
    monkeypatch.setattr(agent.critics, "forward", lambda z, a: torch.stack([a.squeeze(-1)] * 2))
    path = torch.randn(4, 64, 8)
    optimizer = torch.optim.Adam(agent.policy.parameters(), 3e-3)

    def mean():
        return float(agent.policy(path)[0].mean().detach())

    before = mean()
    for _ in range(60):
        loss = agent.policy_loss(path)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mean() > before + 0.3


def test_terminal_states_are_told_from_others_once_there_has_been_one():
    agent = agent_for("agent.lr=3e-3")
    data = batch()
    ends = (data.action.squeeze(-1) > 0.3).float()
    data = data._replace(terminated=ends)
    assert "loss/termination" not in agent.update(data, gauges=False)
    agent.terminates = True
    losses = [float(agent.update(data, gauges=False)["loss/termination"]) for _ in range(150)]
    assert losses[-1] < 0.5 * losses[0]
    again = agent_for()
    again.load_state_dict(agent.state_dict())
    assert again.terminates


@pytest.mark.parametrize("belief", ["diagonal", "student_t", "mixture", "flow", "ensemble"])
def test_how_often_one_looks_at_the_gauges_does_not_change_what_is_learnt(belief):
    weights = []
    for looks in (False, True):
        agent = agent_for(f"belief={belief}")
        torch.manual_seed(1)
        for _ in range(2):
            agent.update(batch(), gauges=looks)
        weights.append(agent.world.encoder.project.weight)
    assert torch.equal(*weights)


def test_observations_are_views_of_the_frames_they_are_stacked_of():
    frames = torch.randint(256, (2, 6, 3, 8, 8), dtype=torch.uint8)
    obs = stack_frames(frames, 3)
    assert obs.data_ptr() == frames.data_ptr()
    assert torch.equal(obs, torch.stack([frames[:, t : t + 3].flatten(1, 2) for t in range(4)]))


def test_some_sequences_are_left_as_they_are_and_beliefs_are_told_which():
    obs = torch.randint(256, (4, 12, 9, 32, 32), dtype=torch.uint8)
    moved, shifted = agent_for("agent.unshifted=0.25").augment(obs)
    assert shifted.flatten().tolist() == [0.0] * 3 + [1.0] * 9
    assert torch.equal(moved[:, :3], obs[:, :3])
    still = (moved[:, 3:] == obs[:, 3:]).flatten(2).all(-1)  # [T+1, 9]
    assert still.float().mean() < 0.2  # one shift in 49 is none
    for never, same in (("agent.shift=0", True), ("agent.unshifted=0", False)):
        moved, shifted = agent_for(never).augment(obs)
        assert not shifted.any()
        assert torch.equal(moved, obs) is same
