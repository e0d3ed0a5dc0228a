"""What load tests see of the server: Triton's statistics, processes, and what grows in a soak."""

import pytest

from benchmarks.load import scenario as scenarios
from benchmarks.load.plan import Plan
from benchmarks.load.report import soak
from benchmarks.load.report.html import page
from benchmarks.load.report.limits import Failure
from benchmarks.load.report.outcome import Outcome
from benchmarks.load.report.plots import draw, lane_parts, steps_with_models
from benchmarks.load.report.report import save
from benchmarks.load.report.step_figures import figures
from benchmarks.load.report.tally import ALL, Done, Tallies
from benchmarks.load.watch import lanes, statistics, watch
from benchmarks.load.watch.processes import name_of


def model_stats(number, requests, executions, batches, queue_ms):
    kind = str if number is str else int
    stages = {
        stage: {"count": kind(requests), "ns": kind(requests * ms * 1_000_000)}
        for stage, ms in zip(statistics.STAGES, (queue_ms, 1, 2, 3), strict=True)
    }
    return {
        "name": "qwen3_vl",
        "inference_count": kind(requests),
        "execution_count": kind(executions),
        "inference_stats": {"success": {"count": kind(requests)}, **stages},
        "batch_stats": [
            {"batch_size": kind(size), "compute_infer": {"count": kind(count)}}
            for size, count in batches.items()
        ],
    }


@pytest.mark.parametrize("number", [int, str], ids=["http", "grpc"])
def test_statistics_are_what_happened_between_two_looks(number):
    early = {"qwen3_vl": statistics._counts(model_stats(number, 10, 10, {1: 10}, 5))}
    late = {"qwen3_vl": statistics._counts(model_stats(number, 50, 20, {1: 12, 4: 8}, 9))}
    idle = {"name": "store", "version": "1"}
    late["store"] = statistics._counts(idle)
    found = statistics.between(early, late)
    assert list(found) == ["qwen3_vl"]
    assert found["qwen3_vl"]["queue_ms"] == 10.0  # (50 * 9 - 10 * 5) / 40
    assert found["qwen3_vl"]["compute_infer_ms"] == 2.0
    assert found["qwen3_vl"]["mean_batch"] == 4.0
    assert found["qwen3_vl"]["batches"] == {1: 2, 4: 8}


def sample(at, cpu_s=0.0, resident=100.0, files=5, shared=0):
    process = {
        "cpu_s": cpu_s, "resident_bytes": resident * 2**20, "files": files, "processes": 1,
    }  # fmt: skip
    return {
        "at": at,
        "processes": {"qwen3_vl": process},
        "gpu": None,
        "shared_memory_bytes": shared * 2**20,
    }


def test_use_of_processes_is_of_the_measured_time():
    samples = [sample(0, 0), sample(10, 8), sample(14, 14, resident=130), sample(20, 99)]
    found = watch.between(samples, 9, 15)
    assert found["processes"]["qwen3_vl"]["cores"] == 1.5
    assert found["processes"]["qwen3_vl"]["resident_mib"] == 130
    assert "gpu" not in found
    assert watch.between(samples, 9, 11) == {}


def soak_of(samples, **values):
    content = {"about": "a test", "workload": "demo", "actions": [{"name": "embed"}]}
    content |= {"loop": "open", "rates": [2], "seconds": 594, "warm_up_s": 6, "soak": values}
    return soak.judged(scenarios.parse(content, "test"), samples, began=1000.0)


def test_soak_finds_what_grows_after_it_settled():
    def resident(minute):
        return 500 if minute < 1 else 1000 + 4 * minute

    samples = [sample(1000 + 30 * n, resident=resident(n / 2), files=5) for n in range(21)]
    grown = {one.name: one for one in soak_of(samples) if one.grew}
    assert list(grown) == ["qwen3_vl resident_bytes"]
    assert grown["qwen3_vl resident_bytes"].growth == pytest.approx(0.03, abs=0.005)
    assert [one.limit for one in soak.failures(list(grown.values()))] == ["max_growth"]
    assert soak.failures([*grown.values()])[0].where == "soak: qwen3_vl resident_bytes"
    assert not [one for one in soak_of(samples, growth=0.05) if one.grew]


def test_soak_does_not_judge_what_grows_at_the_start_nor_noise():
    samples = [
        sample(1000 + 30 * n, resident=500 if n < 3 else 1000 + n % 2, files=5 + n % 3)
        for n in range(21)
    ]
    assert not [one for one in soak_of(samples) if one.grew]


def test_soak_sees_open_files_and_shared_memory():
    samples = [sample(1000 + 30 * n, files=5 + n, shared=10 + n) for n in range(21)]
    names = {one.name for one in soak_of(samples) if one.grew}
    assert names == {"qwen3_vl files", "shared_memory_bytes"}


def test_soak_without_enough_looks_fails():
    assert soak_of([sample(1300), sample(1400)]) == []
    assert [one.limit for one in soak.failures([])] == ["min_looks"]
    assert soak.failures(None) == []


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/x/stub", "/x/model_repository/qwen3_vl/1/model.py", "lensemble_1"], "qwen3_vl"),
        (["/opt/bin/tritonserver", "--model-repository=/x"], "tritonserver"),
        (["/bin/sh"], None),
        ([], None),
    ],
)
def test_processes_are_called_by_their_model(command, name):
    assert name_of(command) == name


def test_ensembles_are_not_drawn_beside_their_own_steps():
    server = {"models": {name: {"executions": 3} for name in ("embed", "qwen3_vl", "search")}}
    steps = [{"level": 8, "server": server}, {"level": 9, "server": {}}]
    assert list(steps_with_models(steps)) == [("8", {"qwen3_vl": {"executions": 3}})]


def test_report_is_one_page_with_all_plots_and_tables(tmp_path):
    content = {"about": "<b>", "workload": "demo", "actions": [{"name": "embed"}], "users": [2]}
    given = scenarios.parse({"name": "a test", **content}, "test")
    plan = Plan(given)
    tallies = Tallies(plan)
    tallies.add(Done("embed text", 4.0, 4.0, 4.5))
    tallies.add(Done("embed text", 4.0, 4.0, 4.5, error="OverloadedError"))
    steps = figures(given, plan, tallies)
    early = {"qwen3_vl": statistics._counts({})}
    late = {"qwen3_vl": statistics._counts(model_stats(int, 50, 20, {1: 12, 4: 8}, 9))}
    samples = [{**sample(1, 1), "models": early}, {**sample(9, 9), "models": late}]
    steps[0]["server"] = watch.between(samples, 0, 10)
    failed = [Failure("2 users", "max_p99_ms", 1, 500.0)]
    outcome = Outcome(given, steps, {"server": "triton 1"}, failed, None)
    plots = draw(outcome, tmp_path)
    assert [plot.name for plot in plots] == ["latency.png", "stages.png", "batches.png"]
    page(outcome, plots, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert all(word in text for word in ("OverloadedError: 1", "qwen3_vl", "max_p99_ms"))
    save(outcome, tmp_path)
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["2", "embed text"], ["2", ALL]]
    steps[0]["server"] = {}
    assert [plot.name for plot in draw(outcome, tmp_path)] == ["latency.png"]


PAGE = """\
# TYPE lensemble_lane_rows_total counter
lensemble_lane_rows_total{{triton_model="qwen3_vl",lane="text"}} {text}
lensemble_lane_rows_total{{triton_model="qwen3_vl",lane="picture"}} 4
# TYPE lensemble_lane_waited_seconds_total counter
lensemble_lane_waited_seconds_total{{triton_model="qwen3_vl",lane="text"}} {waited}
# TYPE lensemble_lane_pass_seconds_total counter
lensemble_lane_pass_seconds_total{{triton_model="qwen3_vl",lane="text"}} {passes}
"""


def test_lanes_are_what_went_through_them_between_two_looks():
    early = lanes.counted(PAGE.format(text=10, waited=5, passes=2))
    late = lanes.counted(PAGE.format(text=30, waited=6, passes=10))
    found = lanes.between(early, late)
    assert found == {"text": {"rows": 20, "waited_ms": 50.0, "pass_ms": 400.0}}
    first = lanes.between({}, late)
    assert first["picture"] == {"rows": 4, "waited_ms": 0.0, "pass_ms": 0.0}


def test_lanes_stand_among_the_stages_over_all_rows_of_the_encoder():
    step = {
        "server": {
            "lanes": {
                "text": {"rows": 20, "waited_ms": 50.0, "pass_ms": 400.0},
                "picture": {"rows": 10, "waited_ms": 200.0, "pass_ms": 100.0},
            },
            "models": {"qwen3_vl": {"items": 100}},
        }
    }
    assert lane_parts(step) == {("lanes", "waiting"): 30.0, ("lanes", "passes"): 90.0}
    assert lane_parts({"server": {"models": {"qwen3_vl": {"items": 100}}}}) == {}
