"""Generated worlds: what is drawn is the state, and the law is the one that is told."""

import numpy as np
import pytest
import scipy.stats

from gje_world.data.clips import Clips
from gje_world.data.crossings import LEAD
from gje_world.data.world import DARK, write_clips
from gje_world.data.worlds import WORLDS, make_world

LENGTH = LEAD[1] + 6
CROSSINGS = [name for name in WORLDS if name.startswith(("junction", "coin", "occluder"))]
DISCRETE = [name for name in CROSSINGS if name != "occluder"]


def episodes(name, count, size=32, seed=0):
    world = make_world(name, size)
    return world, *world.generate(np.random.default_rng(seed), count, LENGTH)


def at_decision(world, states):
    return states[np.arange(len(states)), world.decision(states)]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ["bounce", "junction_8", "coin"])
def test_a_sprite_stands_where_its_state_says(name, size):
    _, frames, states = episodes(name, 30, size)
    assert frames.dtype == np.uint8 and frames.shape == (30, LENGTH, 3, size, size)
    bright = np.abs(frames.astype(float) - DARK).sum(2)
    middle = slice(size // 2 - 2, size // 2 + 2)
    bright[..., middle, middle] = 0  # the mark of a crossing
    clear = (abs(states[..., :2]) > 0.4).any(-1)  # of the mark
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    total = bright.sum((-2, -1))
    x, y = (bright.sum(-2) @ centres) / total, (bright.sum(-1) @ centres) / total
    offset = np.stack([x, y], -1)[clear] - states[clear][:, :2]
    kind = states[clear][:, 5]
    for one in np.unique(kind):  # a glyph's centre of mass lies where it lies, but always at the same place
        assert offset[kind == one].std(0).max() < 0.1 * 2 / size  # a tenth of a pixel
        assert abs(offset[kind == one].mean(0)).max() < 0.08


@pytest.mark.parametrize("name", DISCRETE)
def test_the_ways_are_taken_as_often_as_told(name):
    world, _, states = episodes(name, 3000)
    fork = at_decision(world, states)
    branches = world.branches(fork, 5)
    where = world.decision(states)[:, None] + np.arange(1, 6)
    after = world.readable(np.take_along_axis(states, where[..., None], 1)).swapaxes(0, 1)  # [5, E, V]
    distance = np.linalg.norm(after[:, :, None] - branches.places, axis=-1)  # [5, E, K]
    taken = distance[-1].argmin(-1)
    assert distance.min(-1)[0].max() < 0.06 and distance.min(-1)[-1].max() < 0.3
    counts = np.bincount(taken, minlength=len(branches.probabilities))
    expected = branches.probabilities.astype(float) / branches.probabilities.astype(float).sum()
    if len(counts) > 1:
        assert scipy.stats.chisquare(counts, expected * len(states)).pvalue > 1e-4
        # what is there before the crossing does not tell the way
        quadrant = (fork[:, 2] > 0) + 2 * (fork[:, 3] > 0)
        table = np.histogram2d(quadrant, taken, bins=(4, len(counts)))[0]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("name", DISCRETE)
def test_the_oracle_draws_every_way_from_one_past(name):
    world, _, states = episodes(name, 3)
    fork = at_decision(world, states)
    drawn = world.sample_futures(fork, 4, 2000, np.random.default_rng(1))
    branches = world.branches(fork, 4)
    assert drawn.shape == (2000, 4, 3, len(world.state_names))
    nearest = np.linalg.norm(world.readable(drawn)[:, -1, :, None] - branches.places[-1], axis=-1).argmin(-1)
    for way, probability in enumerate(branches.probabilities):
        assert (nearest == way).mean() == pytest.approx(probability, abs=0.03)


def test_nothing_is_seen_of_a_sprite_while_its_new_speed_is_drawn():
    world, frames, states = episodes("occluder", 40)
    hidden = frames[np.arange(40), world.decision(states)]
    assert (hidden == hidden[0]).all()


def test_a_noisy_background_tells_nothing():
    world = make_world("noise", 32)
    behind = world.background(400, np.random.default_rng(0)).reshape(400, -1)
    correlation = np.corrcoef(behind[:-1].ravel(), behind[1:].ravel())[0, 1]
    assert abs(correlation) < 0.01


def test_clips_of_a_world_are_the_same_in_one_go_and_in_two(tmp_path):
    world = make_world("coin", 32)
    write_clips(world, tmp_path / "two", 100, 8, seed=3)
    for name in ("two", "one"):
        clips = write_clips(world, tmp_path / name, 300, 8, seed=3)
        assert clips.episodes == 300
    for name in ("frames.bin", "states.bin"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert Clips.open(tmp_path / "one").state_names == world.state_names


def test_a_world_that_cannot_be_made_is_named():
    with pytest.raises(ValueError, match=r"world must be one of bounce, .* got 'maze'"):
        make_world("maze")
    with pytest.raises(ValueError, match="multiple of 16 of at least 32, got 20"):
        make_world("bounce", 20)
