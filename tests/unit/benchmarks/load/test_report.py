"""Plots, the HTML page and the files of a run."""

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.monitoring import triton_statistics
from benchmarks.load.monitoring.sampler import usage_between
from benchmarks.load.report.html import write_page
from benchmarks.load.report.limits import Failure
from benchmarks.load.report.plots import draw_plots, lane_parts, steps_with_models
from benchmarks.load.report.request_statistics import ALL, CompletedRequest, StatisticsByStep
from benchmarks.load.report.result_files import save
from benchmarks.load.report.run_result import RunResult
from benchmarks.load.report.step_summary import summarize_steps
from benchmarks.load.scenario import parse_scenario
from tests.unit.benchmarks.load.samples import model_stats, sample


def test_ensembles_are_not_drawn_in_addition_to_their_steps():
    server = {"models": {name: {"executions": 3} for name in ("embed", "qwen3_vl", "search")}}
    steps = [{"level": 8, "server": server}, {"level": 9, "server": {}}]
    assert list(steps_with_models(steps)) == [("8", {"qwen3_vl": {"executions": 3}})]


def test_lanes_are_drawn_as_means_over_all_rows_of_the_encoder():
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


def test_report_is_one_page_with_all_plots_and_tables(tmp_path):
    content = {"about": "<b>", "workload": "demo", "actions": [{"name": "embed"}], "users": [2]}
    scenario = parse_scenario({"name": "a test", **content}, "test")
    schedule = LoadSchedule(scenario)
    statistics = StatisticsByStep(schedule)
    statistics.add(CompletedRequest("embed text", 4.0, 4.0, 4.5))
    statistics.add(CompletedRequest("embed text", 4.0, 4.0, 4.5, error="OverloadedError"))
    steps = summarize_steps(scenario, schedule, statistics)
    early = {"qwen3_vl": triton_statistics._counts({})}
    late = {"qwen3_vl": triton_statistics._counts(model_stats(int, 50, 20, {1: 12, 4: 8}, 9))}
    samples = [{**sample(1, 1), "models": early}, {**sample(9, 9), "models": late}]
    steps[0]["server"] = usage_between(samples, 0, 10)
    failed = [Failure("2 users", "max_p99_ms", 1, 500.0)]
    result = RunResult(scenario, steps, {"server": "triton 1"}, failed, None)
    plots = draw_plots(result, tmp_path)
    assert [plot.name for plot in plots] == ["latency.png", "stages.png", "batches.png"]
    write_page(result, plots, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert all(word in text for word in ("OverloadedError: 1", "qwen3_vl", "max_p99_ms"))
    save(result, tmp_path)
    lines = (tmp_path / "result.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["2", "embed text"], ["2", ALL]]
    steps[0]["server"] = {}
    assert [plot.name for plot in draw_plots(result, tmp_path)] == ["latency.png"]
