"""A new belief finds the scale of its targets, whatever it is: neither collapse nor explosion on the way."""

import math

import pytest

from gje_world.beliefs import HEADS
from gje_world.evaluation.cold_start import spread_while_learning

SCALES = (1e-3, 1.0, 1e3)
UPDATES = {"flow": 100, "ensemble": 300}  # the slow ones show it sooner


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("belief", [name for name in HEADS if name != "point"])
def test_the_spread_finds_the_scale_of_the_targets(belief, scale):
    # all seeds stand in results/cold_start.csv; here each case has another one
    seed = (list(HEADS).index(belief) + SCALES.index(scale)) % 5
    curve = spread_while_learning(belief, scale, seed, UPDATES.get(belief, 1000))
    start, end = curve[0], curve[-1]
    assert all(math.isfinite(ratio) for ratio in curve)
    assert min(curve) > 0.5 * min(start, 1), "collapsed"
    assert max(curve) < 10 * max(start, 1 / 0.3), "blew up"
    assert abs(math.log(end)) < max(0.9 * abs(math.log(start)), math.log(4)), "did not come nearer"
