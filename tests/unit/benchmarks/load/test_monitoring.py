"""Readings of the server: Triton's statistics, lanes, and the use of processes."""

import pytest

from benchmarks.load.monitoring import lanes, triton_statistics
from benchmarks.load.monitoring.processes import name_of
from benchmarks.load.monitoring.sampler import usage_between
from tests.unit.benchmarks.load.samples import model_stats, sample


@pytest.mark.parametrize("number", [int, str], ids=["http", "grpc"])
def test_statistics_are_differences_of_two_readings(number):
    early = {"qwen3_vl": triton_statistics._counts(model_stats(number, 10, 10, {1: 10}, 5))}
    late = {"qwen3_vl": triton_statistics._counts(model_stats(number, 50, 20, {1: 12, 4: 8}, 9))}
    idle = {"name": "store", "version": "1"}
    late["store"] = triton_statistics._counts(idle)
    found = triton_statistics.difference(early, late)
    assert list(found) == ["qwen3_vl"]
    assert found["qwen3_vl"]["queue_ms"] == 10.0  # (50 * 9 - 10 * 5) / 40
    assert found["qwen3_vl"]["compute_infer_ms"] == 2.0
    assert found["qwen3_vl"]["mean_batch"] == 4.0
    assert found["qwen3_vl"]["batches"] == {1: 2, 4: 8}


PAGE = """\
# TYPE lensemble_lane_rows_total counter
lensemble_lane_rows_total{{triton_model="qwen3_vl",lane="text"}} {text}
lensemble_lane_rows_total{{triton_model="qwen3_vl",lane="picture"}} 4
# TYPE lensemble_lane_waited_seconds_total counter
lensemble_lane_waited_seconds_total{{triton_model="qwen3_vl",lane="text"}} {waited}
# TYPE lensemble_lane_pass_seconds_total counter
lensemble_lane_pass_seconds_total{{triton_model="qwen3_vl",lane="text"}} {passes}
"""


def test_lanes_are_differences_of_two_readings():
    early = lanes.parse(PAGE.format(text=10, waited=5, passes=2))
    late = lanes.parse(PAGE.format(text=30, waited=6, passes=10))
    found = lanes.difference(early, late)
    assert found == {"text": {"rows": 20, "waited_ms": 50.0, "pass_ms": 400.0}}
    first = lanes.difference({}, late)
    assert first["picture"] == {"rows": 4, "waited_ms": 0.0, "pass_ms": 0.0}


def test_use_of_processes_is_that_of_the_measured_time():
    samples = [sample(0, 0), sample(10, 8), sample(14, 14, resident=130), sample(20, 99)]
    found = usage_between(samples, 9, 15)
    assert found["processes"]["qwen3_vl"]["cores"] == 1.5
    assert found["processes"]["qwen3_vl"]["resident_mib"] == 130
    assert "gpu" not in found
    assert usage_between(samples, 9, 11) == {}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/x/stub", "/x/model_repository/qwen3_vl/1/model.py", "lensemble_1"], "qwen3_vl"),
        (["/opt/bin/tritonserver", "--model-repository=/x"], "tritonserver"),
        (["/bin/sh"], None),
        ([], None),
    ],
)
def test_processes_are_named_after_their_model(command, name):
    assert name_of(command) == name
