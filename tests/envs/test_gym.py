"""Gymnasium's environments, and a user's own, through the same door."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs


class Slope(gymnasium.Env):
    """A point on a line, drawn as a bright column on a dark 30×50 picture; actions reach from -2 to 4."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode=None, action_space=None, picture=None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = action_space or gymnasium.spaces.Box(-2.0, 4.0, (1,), np.float32)
        self.picture = picture
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(10, 40)
        return np.array([self.place, 0.0], np.float32), {}

    def step(self, action):
        self.taken.append(np.asarray(action).copy())
        self.place = float(np.clip(self.place + np.sum(action), 0, 49))
        return np.array([self.place, np.sum(action)], np.float32), 1.0, self.place >= 49, False, {}

    def render(self):
        picture = np.zeros((30, 50, 3), np.uint8)
        picture[:, int(self.place)] = 200
        return picture if self.picture is None else self.picture


class Undrawable(Slope):
    """Finds out only when it draws that a package is missing."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


@pytest.fixture(autouse=True)
def registered():
    names = {"Slope-v0": Slope, "Undrawable-v0": Undrawable}
    for name, kind in names.items():
        gymnasium.register(name, kind, max_episode_steps=50)
    yield
    for name in names:
        del gymnasium.registry[name]


def test_a_registered_env_of_the_users_own_works_like_any_other():
    env = envs.make("gym/Slope-v0", action_repeat=2, frame_stack=2, image_size=20)
    obs, info = env.reset(seed=0)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (6, 20, 20), np.uint8)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert obs in env.observation_space
    assert info["state"].shape == (2,)
    assert env.get_wrapper_attr("state_names") == ("observation[0]", "observation[1]")
    assert env.get_wrapper_attr("max_episode_steps") == 25
    _, reward, *_ = env.step(np.zeros(1))
    assert reward == 2.0
    assert env.metadata["render_fps"] == 10
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")  # about checking a wrapped environment
        check_env(env, skip_render_check=True)


def test_an_instance_works_the_same():
    given = envs.make(Slope(render_mode="rgb_array"), action_repeat=2, time_limit=7)
    named = envs.make("gym/Slope-v0", action_repeat=2, time_limit=7)
    assert given.get_wrapper_attr("max_episode_steps") == named.get_wrapper_attr("max_episode_steps") == 4
    assert np.array_equal(given.reset(seed=3)[0], named.reset(seed=3)[0])
    for _ in range(4):
        one, other = given.step(np.full(1, -0.3)), named.step(np.full(1, -0.3))
        assert np.array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]
    assert one[3]


def test_a_shorter_limit_of_the_instance_itself_still_holds():
    limited = gymnasium.make("Slope-v0", render_mode="rgb_array")
    assert envs.make(limited, time_limit=80).get_wrapper_attr("max_episode_steps") == 50


def test_the_limit_that_an_instance_is_wrapped_in_is_seen():
    wrapped = gymnasium.wrappers.TimeLimit(Slope(render_mode="rgb_array"), 30)
    assert envs.make(wrapped, action_repeat=2).get_wrapper_attr("max_episode_steps") == 15


def test_an_env_without_a_limit_says_so():
    assert envs.make(Slope(render_mode="rgb_array")).get_wrapper_attr("max_episode_steps") is None


def test_actions_are_scaled_to_the_envs_own_bounds():
    env = envs.make(Slope(render_mode="rgb_array"))
    env.reset()
    for action in (-1.0, 0.0, 1.0, 5.0):
        env.step(np.array([action], np.float32))
    np.testing.assert_allclose(np.ravel(env.unwrapped.taken), [-2.0, 1.0, 4.0, 4.0])


def test_actions_of_any_shape_are_flattened():
    space = gymnasium.spaces.Box(-1.0, 1.0, (2, 3), np.float32)
    env = envs.make(Slope(render_mode="rgb_array", action_space=space))
    assert env.action_space.shape == (6,)
    env.reset()
    env.step(np.linspace(-1, 1, 6))
    assert env.unwrapped.taken[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gymnasium.spaces.Discrete(3), r"action space Discrete\(3\) is not supported"),
        (gymnasium.spaces.Box(0, 5, (1,), np.int64), "must be a Box of floats"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (1,)), "bounds must be finite"),
    ],
)
def test_other_action_spaces_are_refused_by_name(space, message):
    with pytest.raises(ValueError, match=message):
        envs.make(Slope(render_mode="rgb_array", action_space=space))


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), [1]])
def test_what_is_not_a_picture_is_refused(picture):
    env = envs.make(Slope(render_mode="rgb_array", picture=picture))
    with pytest.raises(ValueError, match=r"render\(\) must return a uint8 array \[H, W, 3\]"):
        env.reset()


def test_an_instance_made_without_pictures_is_refused():
    with pytest.raises(ValueError, match="render_mode None: pixels need 'rgb_array'"):
        envs.make(Slope())


def test_a_missing_package_is_named_when_the_env_is_made():
    with pytest.raises(ValueError, match="gym/Undrawable-v0 can't run: pygame is not installed"):
        envs.make("gym/Undrawable-v0")


def test_a_mujoco_env_of_gymnasiums_draws_itself(tmp_path, monkeypatch):
    pytest.importorskip("imageio")  # which Gymnasium's own drawing needs
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings to the working directory
    # MuJoCo environments must not share a process with the DM Control ones of the other tests.
    env = envs.make_vector("gym/HalfCheetah-v5", 1, seed=0)
    obs, info = env.reset()
    assert obs.shape == (1, 9, 64, 64)
    assert obs.std() > 5
    assert info["state"].shape == (1, 17)
    env.close()
