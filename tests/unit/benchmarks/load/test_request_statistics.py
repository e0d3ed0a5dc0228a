"""The step for which a request counts, and merging the statistics of processes."""

import json

import numpy as np
import pytest

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.report.request_statistics import (
    ALL,
    NOT_SENT,
    CompletedRequest,
    StatisticsByStep,
)
from benchmarks.load.report.step_summary import summarize_steps
from tests.unit.benchmarks.load.scenarios import closed_loop


def test_warm_up_is_left_out_and_late_answers_are_no_throughput():
    scenario = closed_loop(users=[1])
    statistics = StatisticsByStep(LoadSchedule(scenario))
    assert not statistics.add(CompletedRequest("embed text", 1.0, 1.0, 1.5))  # all in the warm-up
    # Sent in the warm-up, and answered in the measured time.
    assert not statistics.add(CompletedRequest("embed text", 1.0, 1.0, 3.0, items=5))
    assert statistics.add(CompletedRequest("embed text", 4.0, 4.5, 5.0))
    assert statistics.add(CompletedRequest("embed text", 11.0, 11.0, 14.0))  # answered after it
    assert statistics.add(CompletedRequest("embed picture", 6.0, 6.0, 7.0, error="OverloadedError"))
    assert statistics.add(CompletedRequest("embed picture", 7.0, 7.0, 7.0, error=NOT_SENT))
    (step,) = summarize_steps(scenario, LoadSchedule(scenario), statistics)
    text, everything = step["kinds"]["embed text"], step["kinds"][ALL]
    assert list(step["kinds"]) == ["embed picture", "embed text", ALL]
    assert (text["requests"], text["items_per_s"]) == (2, 0.6)
    assert text["max_ms"] == 3000
    assert text["p50_ms"] == pytest.approx(1000, rel=0.003)
    assert text["late_p99_ms"] == pytest.approx(500, rel=0.003)
    assert everything["errors"] == {"OverloadedError": 1, NOT_SENT: 1}
    assert everything["error_rate"] == 0.5
    assert step["cut_off_in_all_steps"] == {"answered": 2, "errors": {}}


def test_statistics_of_workers_merge_to_those_of_a_single_process():
    scenario = closed_loop()
    schedule = LoadSchedule(scenario)
    whole, master = StatisticsByStep(schedule), StatisticsByStep(schedule)
    workers = [StatisticsByStep(schedule), StatisticsByStep(schedule)]
    rng = np.random.default_rng(0)
    for n in range(400):
        began = float(rng.uniform(0, 24))
        error = "InternalError" if n % 50 == 0 else ""
        took = float(rng.exponential(0.1))
        done = CompletedRequest(f"embed {n % 3}", began, began, began + took, 1, 10, 100, error)
        whole.add(done)
        workers[n % 2].add(done)
        if n % 90 == 0:  # reports come in parts
            master.merge(json.loads(json.dumps(workers[n % 2].take())))
    for worker in workers:
        master.merge(worker.take())
    merged = summarize_steps(scenario, schedule, master)
    expected = summarize_steps(scenario, schedule, whole)
    for one, other in zip(merged, expected, strict=True):
        for kind, found in other["kinds"].items():
            for key, value in found.items():
                if key not in ("mean_ms", "latencies"):  # sums in another order
                    assert one["kinds"][kind][key] == value, key
