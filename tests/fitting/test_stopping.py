"""Stopping rules on histories made by hand. A new rule joins with one line in `RULES`."""

import math

import pytest

from torchgmm import Aitken, RelativeTolerance, Tolerance
from torchgmm.fitting import Stop

RULES = [Tolerance, RelativeTolerance, Aitken]
every_rule = pytest.mark.parametrize("rule", RULES)


def geometric(steps, limit=-3.0, gap=1.0, rate=0.5):
    """A climb to `limit` whose distance shrinks by `rate` each step."""
    return [limit - gap * rate**t for t in range(steps)]


def first_met(rule, history):
    """The number of steps after which the rule ends a fit."""
    ends = (n for n in range(1, len(history) + 1) if rule.met(history[:n]))
    return next(ends, None)


@every_rule
def test_a_rule_needs_steps_to_compare(rule):
    assert issubclass(rule, Stop)
    assert not rule(tol=1e9).met([])
    assert not rule(tol=1e9).met([-1.0])


@every_rule
def test_a_climb_that_slows_down_is_ended_and_steady_progress_is_not(rule):
    assert rule(tol=1e-3).met(geometric(60))
    steady = [-100.0 + t for t in range(50)]
    assert first_met(rule(tol=1e-3), steady) is None


@every_rule
def test_a_smaller_tolerance_ends_later(rule):
    ends = [first_met(rule(tol=tol), geometric(60)) for tol in (1e-2, 1e-4, 1e-6)]
    assert ends == sorted(set(ends))


@every_rule
def test_patience_asks_for_so_many_steps_in_a_row(rule):
    once = first_met(rule(tol=1e-4), geometric(60))
    assert first_met(rule(tol=1e-4, patience=4), geometric(60)) == once + 3


@pytest.mark.parametrize("rule", [Tolerance, RelativeTolerance])
def test_a_single_pause_does_not_satisfy_patience(rule):
    pause = [-5.0, -4.0, -4.0, -3.0, -2.0]
    assert rule(tol=1e-6).met(pause[:3])
    assert first_met(rule(tol=1e-6, patience=2), pause) is None


def test_the_tolerance_is_absolute_and_strict():
    assert Tolerance(0.5).met([-3.0, -2.75])
    assert Tolerance(0.5).met([-2.75, -3.0])  # a fall counts as change too, as in scikit-learn
    assert not Tolerance(0.5).met([-3.0, -2.5])
    assert not Tolerance(0).met([-3.0, -3.0])


def test_the_relative_tolerance_scales_with_the_likelihood():
    assert RelativeTolerance(0.1).met([-100.0, -95.0])
    assert not RelativeTolerance(0.1).met([-10.0, -5.0])


def test_aitken_foresees_the_limit_of_a_geometric_climb():
    # the distance to the limit after t steps is rate^t: the rule ends when that is below tol
    for rate in (0.3, 0.9, 0.99):
        history = geometric(3000, rate=rate)
        end = first_met(Aitken(1e-3), history)
        expected = math.ceil(math.log(1e-3) / math.log(rate))
        assert abs(end - 1 - expected) <= 1


def test_aitken_is_not_taken_in_by_slow_but_steady_progress():
    slow = geometric(1000, rate=0.999)  # 1e-3 per step, yet 1 nat still to go
    assert first_met(Tolerance(1.1e-3), slow) == 2
    assert first_met(Aitken(1.1e-3), slow) is None


def test_aitken_rests_when_the_climb_does():
    assert Aitken(1e-3).met([-3.0, -2.0, -2.0])
    assert not Aitken(1e-3).met([-3.0, -3.0, -2.0])  # it has only begun to move
    assert not Aitken(1e-3).met([-3.0, -2.9999, -2.9])  # it is getting faster
    assert not Aitken(1e-3).met([-3.0, -2.5, -2.75])  # it goes up and down
