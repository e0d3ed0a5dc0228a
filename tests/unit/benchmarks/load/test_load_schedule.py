"""When a step runs and when it is measured."""

from benchmarks.load.load_schedule import LoadSchedule
from tests.unit.benchmarks.load.scenarios import closed_loop


def test_plan_has_warm_up_measured_time_and_rest():
    schedule = LoadSchedule(closed_loop(rest_s=1))
    assert [(s.begins_s, s.from_s, s.to_s) for s in schedule.steps] == [(0, 2, 12), (13, 15, 25)]
    assert [schedule.measured_step(at) for at in (0, 1.9, 2, 11.9, 12, 14, 15, 25)] == [
        None, None, 0, 0, None, None, 1, None,
    ]  # fmt: skip
    assert schedule.end_s == 25


def test_users_of_a_step_are_there_from_its_warm_up_on():
    schedule = LoadSchedule(closed_loop(users=[1, 4, 9], rest_s=1))
    assert [schedule.users_at(at) for at in (0, 11, 12.5, 13, 24, 26, 99)] == [1, 1, 4, 4, 4, 9, 9]
