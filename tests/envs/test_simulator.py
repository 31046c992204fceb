"""A simulator goes back to where it was, and on from there as before."""

import numpy as np
import pytest

from envs.making import make
from envs.simulator import Simulator


@pytest.mark.parametrize("id", ["dmc/cartpole-swingup", "dmc/reacher-easy", "dmc/stacker-stack_2"])
def test_from_the_same_state_the_same_actions_lead_to_the_same_place(id):
    simulator = Simulator(id, 32)
    simulator.reset(3)
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (6, simulator.action_dim)).astype(np.float32)
    for action in actions[:3]:
        simulator.step(action)
    state, seen, frame = simulator.state(), simulator.observation(), simulator.frame()
    for action in actions[3:]:
        simulator.step(action)
    there = simulator.observation()
    assert np.abs(there - seen).max() > 1e-3
    simulator.reset(4)  # another episode, where a target may lie elsewhere
    simulator.go_to(state)
    np.testing.assert_allclose(simulator.observation(), seen, atol=1e-6)
    assert (simulator.frame() == frame).mean() > 0.99
    for action in actions[3:]:
        simulator.step(action)
    np.testing.assert_allclose(simulator.observation(), there, atol=1e-4)


@pytest.mark.parametrize("id", ["dmc/cartpole-swingup", "dmc/reacher-easy", "dmc/hopper-hop"])
def test_it_goes_as_the_environment_does(id):
    env, simulator = make(id, image_size=32), Simulator(id, 32)
    env.action_space.seed(1)
    _, info = env.reset(seed=7)
    simulator.reset(7)
    np.testing.assert_array_equal(simulator.observation(), info["state"])
    for _ in range(5):
        action = 1.5 * env.action_space.sample()  # clipped alike
        info = env.step(action)[-1]
        simulator.step(action)
        np.testing.assert_array_equal(simulator.observation(), info["state"])
