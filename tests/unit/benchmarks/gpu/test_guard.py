"""The time of the command, and how steps share it."""

import pytest

from benchmarks.gpu.command.guard import GRACE_S, LEAST_PART, TimeGuard
from benchmarks.gpu.command.plan import PLAN, TOTAL_S, PlannedStep, chosen_steps
from tests.waiting import FakeClock

STEP = PlannedStep("one", share_s=50, limit_s=80)
LATER = [PlannedStep("two", share_s=30, limit_s=60), PlannedStep("three", share_s=20, limit_s=60)]


def guard_with(remaining_s: float, total_s: float = 500.0) -> TimeGuard:
    clock = FakeClock()
    guard = TimeGuard(total_s, clock)
    clock.advance(total_s - remaining_s)
    return guard


def test_step_gets_its_limit_while_there_is_time():
    assert guard_with(500).granted_s(STEP, LATER) == STEP.limit_s


def test_step_may_use_what_earlier_ones_left_but_not_the_shares_of_later_ones():
    later = sum(step.share_s for step in LATER)
    assert guard_with(GRACE_S + later + 61).granted_s(STEP, LATER) == pytest.approx(61)


def test_step_that_no_longer_fits_gets_nothing():
    least = LEAST_PART * STEP.share_s
    assert guard_with(GRACE_S + least).granted_s(STEP, []) == pytest.approx(least)
    assert guard_with(GRACE_S + least - 0.1).granted_s(STEP, []) == 0
    assert guard_with(0).granted_s(STEP, []) == 0


def test_time_that_is_over_is_not_negative():
    clock = FakeClock()
    guard = TimeGuard(10, clock)
    clock.advance(20)
    assert guard.remaining_s() == 0


def test_background_step_takes_no_time_from_later_ones():
    step = PlannedStep("hash", share_s=0, limit_s=60, background=True)
    assert guard_with(GRACE_S + 40).granted_s(step, LATER) == pytest.approx(40)


def test_all_shares_fit():
    steps = [step for step in PLAN if not step.background]
    assert sum(step.share_s for step in steps) + GRACE_S <= TOTAL_S
    assert all(step.share_s <= step.limit_s for step in PLAN)


def test_hanging_steps_leave_each_later_step_its_share():
    """Every step runs into its limit, and the last one still has its share."""
    clock = FakeClock()
    guard = TimeGuard(TOTAL_S, clock)
    steps = [step for step in PLAN if not step.background]
    for number, step in enumerate(steps):
        granted = guard.granted_s(step, steps[number + 1 :])
        assert granted >= step.share_s - GRACE_S, step.name
        clock.advance(granted)
    assert guard.remaining_s() >= 0


def test_chosen_steps_bring_what_they_need_in_the_order_of_the_plan():
    names = [step.name for step in chosen_steps(["served"])]
    assert names == ["pictures", "weights", "profile", "served"]
    assert chosen_steps([]) == list(PLAN)


def test_scale_changes_all_seconds():
    (step,) = chosen_steps(["ceiling"], scale=2)
    (before,) = chosen_steps(["ceiling"])
    assert (step.share_s, step.limit_s) == (2 * before.share_s, 2 * before.limit_s)


def test_unknown_step_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match=r"'sevred' is not a step; the steps are preflight, .*"):
        chosen_steps(["sevred"])
