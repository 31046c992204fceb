"""A new belief finds the scale of its targets, whatever it is: neither collapse nor explosion on the way."""

import csv
import math
from pathlib import Path

import pytest

from gje_world.beliefs import HEADS
from gje_world.evaluation.cold_start import EVERY, spread_while_learning

MEASURED = Path(__file__).parents[2] / "results" / "cold_start.csv"
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


def test_all_seeds_of_the_measured_thousand_updates_kept_their_spread_and_came_nearer():
    with MEASURED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(row["belief"], float(row["scale"]), int(row["seed"])) for row in rows}
    dense = [name for name in HEADS if name != "point"]
    assert cells == {
        (b, s, i) for b in dense for s in SCALES if b != "power_spherical" or s == 1 for i in range(5)
    }
    for row in rows:
        start, lowest, highest, end = (float(row[name]) for name in ("start", "lowest", "highest", "end"))
        assert lowest > 0.5 * min(start, 1), row
        assert highest < 10 * max(start, 1 / 0.3), row
        if row["belief"] == "power_spherical" or float(row["scale"]) == 1:
            assert 0.9 < end < 1.4, row
        else:
            assert abs(math.log(end)) < 0.75 * abs(math.log(start)), row


def test_the_measured_thousand_updates_are_those_of_these_heads():
    with MEASURED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] in ("0", "3")]
    for row in rows:
        curve = spread_while_learning(row["belief"], float(row["scale"]), int(row["seed"]), EVERY)
        assert curve[0] == pytest.approx(float(row["start"]), rel=1e-2), row
        assert min(curve) > 0.99 * float(row["lowest"]) and max(curve) < 1.01 * float(row["highest"]), row
