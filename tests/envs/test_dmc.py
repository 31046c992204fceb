"""Tasks of the DM Control suite from pixels: contract, determinism, time limits, and every task."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.backend import choose_backend

choose_backend()
from dm_control import suite  # noqa: E402  # its OpenGL backend is chosen above

ALL_TASKS = [f"dmc/{domain}-{task}" for domain, task in suite.ALL_TASKS]


def episode(env, seed, steps=5):
    """Observations, rewards and states of the first steps under fixed actions."""
    random = np.random.default_rng(0)
    obs, info = env.reset(seed=seed)
    trace = [(obs, 0.0, info["state"])]
    for _ in range(steps):
        obs, reward, _, _, info = env.step(random.uniform(-1, 1, env.action_space.shape))
        trace.append((obs, reward, info["state"]))
    return trace


def same(one, other):
    return all(
        np.array_equal(a[0], b[0]) and a[1] == b[1] and np.array_equal(a[2], b[2])
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def make():
    """`envs.make`, closing what it made."""
    made = []

    def make_and_remember(*args, **kwargs):
        made.append(envs.make(*args, **kwargs))
        return made[-1]

    yield make_and_remember
    for env in made:
        env.close()


def test_the_spaces_and_attributes_are_those_of_the_contract(make):
    env = make("dmc/cartpole-swingup")
    obs, info = env.reset()
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (9, 64, 64), np.uint8)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert obs in env.observation_space
    names = ("position[0]", "position[1]", "position[2]", "velocity[0]", "velocity[1]")
    assert env.get_wrapper_attr("state_names") == names
    assert info["state"].shape == (5,)
    assert info["state"].dtype == np.float32
    assert env.get_wrapper_attr("action_repeat") == 8
    assert env.get_wrapper_attr("max_episode_steps") == 125


@pytest.mark.parametrize("id", ["dmc/cartpole-swingup", "dmc/lqr-lqr_2_1"])
def test_gymnasiums_own_checker_passes(make, id):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")  # about unbounded states and missing specs
        check_env(make(id), skip_render_check=True)
        check_env(make(id).unwrapped, skip_render_check=True)


def test_state_names_count_the_numbers_of_the_true_state(make):
    env = make("dmc/manipulator-bring_ball")
    _, info = env.reset()
    names = env.get_wrapper_attr("state_names")
    assert len(names) == len(set(names)) == info["state"].size
    assert {"arm_pos[7,1]", "touch[4]"} <= set(names)
    assert "height" in make("dmc/walker-walk").get_wrapper_attr("state_names")


def test_angles_that_turn_far_are_told_by_cosine_and_sine(make):
    env = make("dmc/reacher-easy")
    env.reset(seed=0)
    for _ in range(60):
        _, _, _, _, info = env.step(np.ones(2))
    state = dict(zip(env.get_wrapper_attr("state_names"), info["state"], strict=True))
    angles = env.unwrapped._suite_env.physics.data.qpos
    assert abs(angles[0]) > np.pi
    for index, angle in enumerate(angles):
        np.testing.assert_allclose(state[f"position[{index}].cos"], np.cos(angle), atol=1e-6)
        np.testing.assert_allclose(state[f"position[{index}].sin"], np.sin(angle), atol=1e-6)
    assert {"to_target[0]", "velocity[1]"} <= state.keys()
    names = make("dmc/cheetah-run").get_wrapper_attr("state_names")
    assert {"position[0]", "position[1].cos", "position[2]"} <= set(names)  # height, pitch, a short joint


def test_the_newest_frame_comes_last_and_the_first_is_repeated(make):
    env = make("dmc/cheetah-run", frame_stack=3)
    first, _ = env.reset(seed=0)
    assert np.array_equal(first[0:3], first[3:6])
    assert np.array_equal(first[3:6], first[6:9])
    assert np.array_equal(first[6:9].transpose(1, 2, 0), env.render())
    second, *_ = env.step(np.ones(6))
    assert np.array_equal(second[0:6], first[3:9])
    assert np.array_equal(second[6:9].transpose(1, 2, 0), env.render())
    assert not np.array_equal(second[6:9], first[6:9])


def test_the_same_seed_gives_the_same_episode_whatever_came_before(make):
    env, other = make("dmc/reacher-easy", seed=1), make("dmc/reacher-easy", seed=2)
    other.reset()
    for _ in range(7):
        other.step(other.action_space.sample())
    assert same(episode(env, seed=3), episode(other, seed=3))
    assert not same(episode(env, seed=3), episode(env, seed=4))


def test_a_reset_without_seed_begins_with_makes_seed_and_goes_on_with_its_random_stream(make):
    env, other = make("dmc/reacher-easy", seed=5), make("dmc/reacher-easy", seed=6)
    assert np.array_equal(env.reset()[0], other.reset(seed=5)[0])
    second, third = env.reset()[0], env.reset()[0]
    assert not np.array_equal(second, third)
    assert np.array_equal(other.reset()[0], second)
    assert np.array_equal(other.reset()[0], third)


def test_reward_is_summed_over_the_repeated_frames(make):
    action = np.array([0.5], np.float32)
    once, repeated = (
        make("dmc/cartpole-swingup", action_repeat=1),
        make("dmc/cartpole-swingup", action_repeat=4),
    )
    once.reset(seed=0)
    repeated.reset(seed=0)
    rewards = [once.step(action) for _ in range(4)]
    obs, reward, *_, info = repeated.step(action)
    assert reward == pytest.approx(sum(step[1] for step in rewards))
    assert np.array_equal(obs[-3:], rewards[-1][0][-3:])
    assert np.array_equal(info["state"], rewards[-1][-1]["state"])


def test_an_episode_is_a_thousand_control_steps_and_is_truncated_not_terminated(make):
    env = make("dmc/cartpole-swingup", image_size=8)
    env.reset()
    steps, truncated = 0, False
    while not truncated:
        _, _, terminated, truncated, _ = env.step(np.zeros(1))
        steps += 1
        assert not terminated
    assert steps == env.get_wrapper_attr("max_episode_steps") == 1000 // 8


def test_a_time_limit_that_the_action_repeat_does_not_divide_cuts_the_last_step_short(make):
    env = make("dmc/cartpole-balance", action_repeat=4, time_limit=10)
    assert env.get_wrapper_attr("max_episode_steps") == 3
    env.reset(seed=0)
    steps = [env.step(np.zeros(1)) for _ in range(3)]
    assert [step[3] for step in steps] == [False, False, True]
    # In balance every control step is worth almost 1: four, four, and the two that are left.
    assert [round(step[1]) for step in steps] == [4, 4, 2]


def test_only_the_tasks_own_end_is_a_termination(make):
    env = make("dmc/lqr-lqr_2_1", action_repeat=1)
    env.reset(seed=0)
    physics = env.unwrapped._suite_env.physics
    with physics.reset_context():
        physics.data.qpos[:] = 0.0
        physics.data.qvel[:] = 0.0
    _, _, terminated, truncated, _ = env.step(np.zeros(1))
    assert terminated
    assert not truncated


def test_actions_are_scaled_to_the_actuators_bounds_and_clipped(make):
    env = make("dmc/quadruped-walk", action_repeat=1)
    spec = suite.load("quadruped", "walk").action_spec()
    assert spec.maximum.max() > 1.0
    control = env.unwrapped._suite_env.physics.data.ctrl
    for action, expected in ((1.0, spec.maximum), (-1.0, spec.minimum), (9.0, spec.maximum)):
        env.reset(seed=0)
        env.step(np.full(12, action))
        np.testing.assert_allclose(control, expected, rtol=1e-6)


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), 0.0])
def test_a_bad_action_is_refused(make, action):
    env = make("dmc/cartpole-swingup")
    env.reset()
    with pytest.raises(ValueError, match=r"expected finite numbers of shape \(1,\)"):
        env.step(action)


def test_an_env_still_draws_rightly_after_another_is_closed(make):
    alone = episode(make("dmc/walker-walk"), seed=0)
    other = envs.make("dmc/cheetah-run", render="faithful")
    other.reset()
    survivor = make("dmc/walker-walk")
    survivor.reset()
    other.step(np.zeros(6))
    other.close()
    assert same(episode(survivor, seed=0), alone)


@pytest.mark.parametrize("id", ALL_TASKS)
def test_every_task_of_the_suite_can_be_played(make, id):
    env = make(id, frame_stack=1)
    obs, info = env.reset(seed=0)
    assert obs.std() > 5  # a picture, not a blank
    for _ in range(2):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert obs in env.observation_space
        assert np.isfinite(reward)
        assert np.isfinite(info["state"]).all()
        assert not terminated
        assert not truncated
