"""What the agent sees: faithful frames are dm_control's own, fast frames look like them."""

import os
import subprocess
import sys

import numpy as np
import pytest

import envs

# A process of its own, in which envs has changed nothing, draws the same episode with dm_control.
REFERENCE = """
import sys
import numpy as np
from dm_control import suite

domain, task, path = sys.argv[1:]
episode = np.load(path)
env = suite.load(domain, task, task_kwargs={"random": int(episode["seed"])})
env.reset()
for action in episode["actions"]:
    env.step(action)
np.save(path.replace("npz", "npy"), env.physics.render(64, 64, camera_id=0))
"""
STEPS = 6


def draw(domain, task, render):
    """The frame after some fixed control steps, and the actions that led there."""
    env = envs.make(f"dmc/{domain}-{task}", render=render, action_repeat=1)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, *env.action_space.shape)).astype(np.float32)
    for action in actions:
        env.step(action)
    frame = env.render()
    env.close()
    return frame, actions


def reference(domain, task, actions, folder):
    """`physics.render` of the same state, from another process."""
    path = folder / "episode.npz"
    # The seed that SuiteEnv's reset draws for the task from its own random stream.
    env = envs.make(f"dmc/{domain}-{task}")
    env.unwrapped.np_random = np.random.default_rng(0)
    seed = env.unwrapped.np_random.integers(2**32, dtype=np.uint32)
    env.close()
    np.savez(path, seed=seed, actions=actions.astype(np.float64))
    environment = {name: value for name, value in os.environ.items() if name != "LP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", REFERENCE, domain, task, str(path)], env=environment, check=True)
    return np.load(path.with_suffix(".npy"))


@pytest.mark.parametrize(
    ("domain", "task"), [("cartpole", "swingup"), ("reacher", "easy"), ("walker", "walk")]
)
def test_faithful_frames_are_exactly_those_of_dm_control(domain, task, tmp_path):
    frame, actions = draw(domain, task, "faithful")
    np.testing.assert_array_equal(frame, reference(domain, task, actions, tmp_path))


@pytest.mark.parametrize(
    ("domain", "task"),
    [
        ("cartpole", "swingup"),
        ("cheetah", "run"),
        ("walker", "walk"),
        ("finger", "spin"),
        ("reacher", "easy"),
        ("ball_in_cup", "catch"),
    ],
)
def test_fast_frames_show_the_same_bodies_as_faithful_ones(domain, task):
    fast = draw(domain, task, "fast")[0].astype(int)
    faithful = draw(domain, task, "faithful")[0].astype(int)
    # The robots are orange and everything behind them is blue, whatever the light.
    bodies = (fast[..., 0] - fast[..., 2] > 20, faithful[..., 0] - faithful[..., 2] > 20)
    overlap = (bodies[0] & bodies[1]).sum() / (bodies[0] | bodies[1]).sum()
    assert bodies[1].sum() > 20
    assert overlap > 0.8
    assert np.abs(fast - faithful)[bodies[0] & bodies[1]].mean() < 25


def test_thin_things_do_not_break_up_in_fast_frames():
    frame = draw("ball_in_cup", "catch", "fast")[0].astype(int)
    warmth = (frame[..., 0] - frame[..., 2]).max(axis=1)  # of each row; the sky behind has about -33
    orange = np.flatnonzero(warmth > 20)
    gap = np.flatnonzero(np.diff(orange) > 1)[0]
    between = warmth[
        orange[gap] + 1 : orange[gap + 1]
    ]  # below the cup, above the ball: the grey string alone
    assert len(between) > 4
    assert (between > -30).all()


@pytest.mark.parametrize("image_size", [1, 37, 96])
@pytest.mark.parametrize("render", ["fast", "faithful"])
def test_frames_have_the_size_that_was_asked_for(image_size, render):
    env = envs.make("dmc/pendulum-swingup", image_size=image_size, render=render, frame_stack=2)
    obs, _ = env.reset()
    assert obs.shape == (6, image_size, image_size)
    assert env.render().shape == (image_size, image_size, 3)
    env.close()


def test_one_frame_is_drawn_per_agent_step(monkeypatch):
    env = envs.make("dmc/cartpole-swingup", action_repeat=8)
    drawn = []
    renderer = env.unwrapped._renderer
    frame = renderer.frame
    monkeypatch.setattr(renderer, "frame", lambda: drawn.append(1) or frame())
    env.reset()
    for _ in range(3):
        env.step(np.zeros(1))
        env.render()
    assert len(drawn) == 4
    env.close()
