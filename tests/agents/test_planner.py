"""Planning finds known optima, heeds risk exactly, goes on from its last plan, and keeps rows apart."""

import pytest
import torch

from agents.planner import Method, Planner, PlannerConfig, Risk, score_returns

HORIZON, ACTION = 3, 2


def no_proposals(z, count):
    return torch.zeros(HORIZON, len(z), count, ACTION)


def quadratic(z, actions):
    """One particle's returns: best where each action is its row's `z [B, A]`, halved at each further step."""
    targets = torch.stack([z / 2**t for t in range(HORIZON)])  # [H, B, A]
    return -(actions - targets.unsqueeze(2)).square().sum((0, -1)).unsqueeze(0)


def planner(evaluate=quadratic, propose=no_proposals, **options):
    sizes = {"horizon": HORIZON, "candidates": 256, "policy_candidates": 8, "elites": 32, "iterations": 8}
    return Planner(PlannerConfig(**(sizes | options)), ACTION, propose, evaluate)


@pytest.mark.parametrize("method, temperature", [(Method.mppi, 0.5), (Method.mppi, 2.0), (Method.cem, 0.5)])
def test_the_optimum_of_a_quadratic_return_is_found_for_every_row(method, temperature):
    torch.manual_seed(0)
    z = torch.tensor([[0.7, -0.4], [-0.9, 0.1], [0.0, 0.0]])
    found = planner(method=method, temperature=temperature)
    action = found.plan(z, explore=False)
    torch.testing.assert_close(action, z, rtol=0, atol=0.08)
    torch.testing.assert_close(found.warm_start[1], z / 2, rtol=0, atol=0.08)


@pytest.mark.parametrize("explore", [False, True])
def test_an_optimum_beyond_the_bounds_is_met_at_the_bounds(explore):
    torch.manual_seed(0)
    action = planner().plan(torch.tensor([[5.0, -5.0]]), explore)
    assert (action.abs() <= 1).all()
    torch.testing.assert_close(action, torch.tensor([[1.0, -1.0]]), rtol=0, atol=0.25)


def test_a_proposal_of_the_policy_is_taken_where_it_is_best():
    best = torch.tensor([[[0.31, -0.62]], [[0.5, 0.5]], [[-0.5, 0.25]]])  # [H, B, A]

    def propose(z, count):
        return best.unsqueeze(2).expand(-1, -1, count, -1)

    def evaluate(z, actions):
        return -(actions - best.unsqueeze(2)).abs().sum((0, -1)).unsqueeze(0)

    torch.manual_seed(0)
    found = planner(evaluate, propose, elites=1, iterations=1)
    assert torch.equal(found.plan(torch.zeros(1, 1), explore=False), best[0])


def test_better_elites_weigh_more_in_mppi_and_the_same_in_cem():
    scores = torch.tensor([[3.0, 2.0, -50.0]])
    torch.testing.assert_close(planner(temperature=2.0).elite_weights(scores), (2 * scores).softmax(1))
    assert torch.equal(planner(method=Method.cem).elite_weights(scores), torch.full((1, 3), 1 / 3))
    huge = planner().elite_weights(1e6 * scores)
    torch.testing.assert_close(huge, torch.tensor([[1.0, 0.0, 0.0]]))


def capture(**options):
    """A planner whose sampled actions have almost no spread, and the list of what it evaluated."""
    seen = []

    def evaluate(z, actions):
        seen.append(actions.clone())
        return torch.zeros(1, len(z), actions.shape[2])

    tiny = {"min_std": 1e-6, "max_std": 1e-6, "iterations": 1, "policy_candidates": 0, "elites": 1}
    return planner(evaluate, **(tiny | options)), seen


def test_the_next_plan_starts_from_the_last_one_moved_by_a_step():
    found, seen = capture()
    plan = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]], [[0.5, 0.6]]])  # [H, B, A]
    found.warm_start = plan
    action = found.plan(torch.zeros(1, 1), explore=False)
    start = torch.cat([plan[1:], torch.zeros(1, 1, ACTION)]).unsqueeze(2)
    torch.testing.assert_close(seen[0], start.expand_as(seen[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(action, plan[1], rtol=0, atol=1e-4)
    found.plan(torch.zeros(1, 1), explore=False)
    torch.testing.assert_close(seen[1][0], plan[2].unsqueeze(1).expand_as(seen[1][0]), rtol=0, atol=1e-4)


def test_after_a_reset_the_plan_starts_from_nothing():
    found, seen = capture()
    found.warm_start = torch.full((HORIZON, 1, ACTION), 0.5)
    found.reset()
    found.plan(torch.zeros(1, 1), explore=False)
    assert seen[0].abs().max() < 1e-4


def test_the_given_warm_start_is_not_written_to():
    found, _ = capture()
    plan = torch.rand(HORIZON, 1, ACTION)
    before = plan.clone()
    found.warm_start = plan
    found.plan(torch.zeros(1, 1), explore=True)
    assert torch.equal(plan, before)


@pytest.mark.parametrize("candidates, proposals", [(64, 0), (64, 24), (64, 63)])
def test_as_many_sequences_as_asked_for_are_evaluated_each_iteration(candidates, proposals):
    found, seen = capture(candidates=candidates, policy_candidates=proposals, iterations=3)
    found.plan(torch.zeros(2, 1), explore=False)
    assert [actions.shape for actions in seen] == [(HORIZON, 2, candidates, ACTION)] * 3
    assert all((actions.abs() <= 1).all() for actions in seen)


def test_what_one_row_sees_does_not_change_another_rows_plan():
    z = torch.tensor([[0.7, -0.4], [-0.9, 0.1]])
    other = torch.tensor([[0.7, -0.4], [0.2, 0.8]])
    actions = []
    for rows in (z, other):
        torch.manual_seed(0)
        actions.append(planner().plan(rows, explore=False))
    assert torch.equal(actions[0][0], actions[1][0])
    assert not torch.allclose(actions[0][1], actions[1][1], atol=0.1)


def test_rows_in_another_order_are_planned_in_that_order():
    torch.manual_seed(0)
    z = torch.rand(6, ACTION) * 2 - 1
    order = torch.randperm(6)
    straight, permuted = planner().plan(z, False)[order], planner().plan(z[order], False)
    torch.testing.assert_close(permuted, straight, rtol=0, atol=0.12)  # up to sampling


def test_exploring_samples_around_the_plan():
    z = torch.tensor([[0.3, -0.4]]).expand(2000, ACTION)
    torch.manual_seed(0)
    found = planner(temperature=10.0, elites=8, candidates=64, min_std=0.1)
    explored = found.plan(z, explore=True)
    planned = found.warm_start[0]
    assert 0.09 < (explored - planned).std() < 0.2
    torch.testing.assert_close(explored.mean(0), z[0], rtol=0, atol=0.03)


# four particles (rows) of three candidates
RETURNS = torch.tensor(
    [
        [1.0, 4.0, 0.0],
        [1.0, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [1.0, 0.0, 8.0],
    ]
)


@pytest.mark.parametrize(
    "options, scores",
    [
        ({"risk": Risk.mean}, [1.0, 1.0, 2.0]),
        ({"risk": Risk.mean_std, "kappa": 0.0}, [1.0, 1.0, 2.0]),
        # deviations 0, √3 and √12
        ({"risk": Risk.mean_std, "kappa": -1.0}, [1.0, 1 - 3**0.5, 2 - 12**0.5]),
        ({"risk": Risk.mean_std, "kappa": 0.5}, [1.0, 1 + 0.75**0.5, 2 + 3**0.5]),
        ({"risk": Risk.cvar, "cvar_share": 0.25}, [1.0, 0.0, 0.0]),
        ({"risk": Risk.cvar, "cvar_share": 0.8}, [1.0, 1.0, 2.0]),  # the worst 3.2 of 4: all of them
        ({"risk": Risk.cvar, "cvar_share": 1.0}, [1.0, 1.0, 2.0]),
        ({"risk": Risk.cvar, "cvar_share": 0.01}, [1.0, 0.0, 0.0]),  # the very worst
    ],
)
def test_risk_turns_particles_into_one_score(options, scores):
    torch.testing.assert_close(score_returns(RETURNS, PlannerConfig(**options)), torch.tensor(scores))


def test_cvar_is_the_mean_of_the_worst_share():
    returns = torch.arange(10.0)[torch.randperm(10)].unsqueeze(1)
    for share, worst in ((0.1, 0.0), (0.2, 0.5), (0.3, 1.0), (0.5, 2.0)):
        score = score_returns(returns, PlannerConfig(risk=Risk.cvar, cvar_share=share))
        assert score == pytest.approx(worst)


def test_a_share_of_particles_is_not_rounded_up_by_a_hair():
    returns = torch.arange(25.0)
    config = PlannerConfig(risk=Risk.cvar, cvar_share=0.28)  # of 25: 7.000000000000001
    assert score_returns(returns, config) == 3.0


def test_a_plan_for_other_rows_is_not_gone_on_with():
    plans = planner()
    plans.plan(torch.zeros(1, ACTION), explore=False)
    with pytest.raises(ValueError, match="reset"):
        plans.plan(torch.zeros(2, ACTION), explore=False)


def test_one_particle_scores_as_itself_whatever_the_risk():
    returns = torch.randn(1, 2, 5)
    for risk in Risk:
        config = PlannerConfig(risk=risk, kappa=-1.0)
        torch.testing.assert_close(score_returns(returns, config), returns[0])


@pytest.mark.parametrize("kappa, side", [(-1.0, -1), (1.0, 1)])
def test_a_cautious_planner_avoids_what_is_uncertain_and_a_curious_one_seeks_it(kappa, side):
    # the return's mean is flat in the first action; its spread grows to the right
    def evaluate(z, actions):
        spread = 1 + actions[0, :, :, 0]
        return torch.stack([-spread, spread])

    torch.manual_seed(0)
    action = planner(evaluate, risk=Risk.mean_std, kappa=kappa).plan(torch.zeros(1, 1), explore=False)
    assert side * action[0, 0] > 0.7
