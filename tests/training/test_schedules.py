"""Learning rates rise, fall to zero, and begin anew in each phase."""

import math

import pytest

from gje_world.training.schedules import phases, warm_cosine


def test_a_rate_rises_over_the_warm_up_and_falls_along_a_half_cosine():
    factor = warm_cosine(110, 10)
    assert [factor(k) for k in range(10)] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factor(60) == pytest.approx(0.5)
    assert factor(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(110) == pytest.approx(0.0)


def test_each_phase_has_a_schedule_of_its_own():
    factor = phases(60, 40, warm_up=5)
    assert [factor(k) for k in range(60)] == [warm_cosine(60, 5)(k) for k in range(60)]
    assert [factor(k) for k in range(60, 100)] == [warm_cosine(40, 5)(k) for k in range(40)]
    assert factor(100) == 0.0
    assert phases(0, 10, warm_up=50)(9) == 1.0  # a phase shorter than its warm-up still learns
