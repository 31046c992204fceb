"""Options and ids are checked before anything is made; defaults are PlaNet's; vectors step in processes."""

import multiprocessing

import numpy as np
import pytest

import envs


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("dmc/cartpol-swingup", "nearest are dmc/cartpole-swingup"),
        ("cartpole-swingup", "nearest are dmc/cartpole-swingup"),
        ("dmc/cup-catch", "dmc/ball_in_cup-catch"),
        ("gym/HalfCheta-v5", "nearest are gym/HalfCheetah-v5"),
        ("gym/no_such_module:Env-v0", "importing 'no_such_module' failed"),
        ("?", "write dmc/<domain>-<task> or gym/<id>"),
    ],
)
def test_an_unknown_task_names_the_nearest_ones(id, nearest):
    with pytest.raises(ValueError, match="unknown task") as error:
        envs.make(id)
    assert repr(id) in str(error.value)
    assert nearest in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("action_repeat", 0),
        ("action_repeat", 2.5),
        ("frame_stack", 0),
        ("image_size", -64),
        ("image_size", True),
        ("time_limit", 0),
        ("render", "pretty"),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_what_would_be_right(option, value):
    with pytest.raises(ValueError, match=rf"^{option}={value!r}: expected "):
        envs.make("dmc/cartpole-swingup", **{option: value})


@pytest.mark.parametrize(
    ("id", "repeat"),
    [
        ("dmc/cartpole-swingup", 8),
        ("dmc/reacher-easy", 4),
        ("dmc/cheetah-run", 4),
        ("dmc/finger-spin", 2),
        ("dmc/ball_in_cup-catch", 4),
        ("dmc/walker-walk", 2),
        ("dmc/dog-run", 2),
        ("gym/HalfCheetah-v5", 1),
    ],
)
def test_the_default_action_repeats(id, repeat):
    assert envs.action_repeat_for(id) == repeat


def test_a_vector_steps_each_env_in_its_own_process_as_that_env_alone_would():
    actions = np.array([[0.7], [-0.4]], np.float32)
    vector = envs.make_vector("dmc/cartpole-swingup", 2, seed=5, image_size=32)
    try:
        obs, info = vector.reset()
        assert obs.shape == (2, 9, 32, 32)
        assert info["state"].shape == (2, 5)
        processes = {process.pid for process in vector.processes}
        assert len(processes) == 2
        assert multiprocessing.current_process().pid not in processes
        assert vector.get_attr("action_repeat") == (8, 8)
        for _ in range(3):
            obs, rewards, *_ = vector.step(actions)
    finally:
        vector.close()
    for index in range(2):
        env = envs.make("dmc/cartpole-swingup", seed=5 + index, image_size=32)
        env.reset()
        for _ in range(3):
            alone, reward, *_ = env.step(actions[index])
        assert np.array_equal(obs[index], alone)
        assert rewards[index] == pytest.approx(reward)
        env.close()


def test_a_vector_of_an_instance_or_of_none_is_refused():
    with pytest.raises(ValueError, match="num_envs=0: expected"):
        envs.make_vector("dmc/cartpole-swingup", 0)
    env = envs.make("dmc/cartpole-swingup")
    with pytest.raises(ValueError, match="an instance can't be copied to other processes"):
        envs.make_vector(env, 2)
    env.close()
