"""Which limits of a scenario a step meets."""

import pytest

from benchmarks.load.report.limits import find_failures, format_failures
from benchmarks.load.report.request_statistics import ALL
from tests.unit.benchmarks.load.scenarios import closed_loop, open_loop


def step_of(**values):
    summary = {"p50_ms": 10.0, "p95_ms": 20.0, "p99_ms": 40.0, "p99_over_p50": 4.0}
    summary |= {"error_rate": 0.0, "items_per_s": 100.0, "started": 9, **values}
    return {"level": 8, "kinds": {ALL: summary}}


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({}, []),
        ({"max_p99_ms": 40, "max_error_rate": 0, "min_items_per_s": 100}, []),
        ({"max_p99_ms": 39.9}, ["max_p99_ms"]),
        ({"max_p50_ms": 9, "max_p95_ms": 30}, ["max_p50_ms"]),
        ({"max_p99_over_p50": 3}, ["max_p99_over_p50"]),
        ({"min_items_per_s": 101}, ["min_items_per_s"]),
        ({"up_to": 4, "min_items_per_s": 101}, []),
        ({"up_to": 8, "min_items_per_s": 101}, ["min_items_per_s"]),
    ],
)
def test_limits_that_are_not_met_are_returned(limits, broken):
    failed = find_failures(closed_loop(limits=limits), [step_of()])
    assert [failure.limit for failure in failed] == broken


def test_table_names_the_step_and_the_limit_that_was_not_met():
    failed = find_failures(closed_loop(limits={"max_error_rate": 0.01}), [step_of(error_rate=0.25)])
    assert "8 users" in format_failures(failed) and "<= 0.01" in format_failures(failed)
    assert "0.25" in format_failures(failed)


def test_step_without_an_answer_meets_no_limit():
    failed = find_failures(closed_loop(limits={"max_p99_ms": 1e6}), [step_of(p99_ms=None)])
    assert [failure.measured for failure in failed] == [None]
    assert "nothing" in format_failures(failed)


def test_step_without_a_request_fails_whatever_the_limits():
    scenario = closed_loop(limits={"up_to": 1})
    (failure,) = find_failures(scenario, [step_of(started=0)])
    assert failure.limit == "min_started"


def test_up_to_compares_shares_where_a_step_has_one():
    scenario = open_loop(limits={"up_to": 0.7, "max_p99_ms": 1})
    assert find_failures(scenario, [{**step_of(), "share": 0.9}]) == []
    assert len(find_failures(scenario, [{**step_of(), "share": 0.7}])) == 1
