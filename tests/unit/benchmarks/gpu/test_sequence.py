"""Steps one after the other: failures, limits, environments, and what is recorded."""

import json
import threading
from pathlib import Path

import pytest

from benchmarks.gpu.command import sequence
from benchmarks.gpu.command.background import Background
from benchmarks.gpu.command.guard import GRACE_S, TimeGuard
from benchmarks.gpu.command.plan import PlannedStep
from benchmarks.gpu.command.processes import TIMED_OUT
from benchmarks.gpu.command.sequence import StepRunner
from tests.waiting import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_runner(tmp_path, monkeypatch, clock):
    """Returns a function: what steps do -> runner, names of the steps that ran, and the log."""

    def make(statuses, total_s=1000.0, interpreters=None):
        ran: list[str] = []
        log: list[str] = []

        def run(command, environment, limit_s, write, **_):
            name = command[2].rsplit(".", 1)[1]
            ran.append(name)
            does = statuses.get(name, 0)
            return does(limit_s, environment) if callable(does) else does

        monkeypatch.setattr(sequence, "run_limited", run)
        runner = StepRunner(
            TimeGuard(total_s, clock),
            interpreters or {"front": Background(lambda: Path("/front/python"))},
            out=tmp_path,
            arguments=[],
            tree=tmp_path,
            write=log.append,
        )
        return runner, ran, log

    return make


def steps(*names, **options):
    return [PlannedStep(name, 50, 100, **options) for name in names]


def saved(folder):
    return json.loads((folder / "run.json").read_text())["command"]["steps"]


def test_failed_step_does_not_stop_the_next(make_runner, tmp_path):
    runner, ran, _ = make_runner({"smoke": 1, "right": TIMED_OUT})
    assert not runner.run(steps("smoke", "right", "peers"))
    assert ran == ["smoke", "right", "peers"]
    outcomes = {name: record["outcome"] for name, record in saved(tmp_path).items()}
    assert outcomes["smoke"] == "failed with status 1"
    assert outcomes["right"].startswith("ended at its limit of")
    assert outcomes["peers"] == "done"


def test_all_done(make_runner):
    runner, _, _ = make_runner({})
    assert runner.run(steps("smoke", "right"))


def test_what_became_of_a_step_is_on_the_disk_before_the_next(make_runner, tmp_path):
    seen = []
    runner, _, _ = make_runner({"right": lambda *_: seen.append(saved(tmp_path)) or 0})
    runner.run(steps("smoke", "right"))
    assert seen == [{"smoke": {"outcome": "done"}}]


def test_step_that_no_longer_fits_is_skipped_and_says_so(make_runner, tmp_path, clock):
    def slow(limit_s, _):
        clock.advance(90)
        return 0

    runner, ran, log = make_runner({"smoke": slow}, total_s=100)
    assert not runner.run([*steps("smoke"), PlannedStep("right", 60, 80)])
    assert ran == ["smoke"]
    assert saved(tmp_path)["right"]["outcome"].startswith("skipped: 10 s are left")
    assert any("right: skipped" in line for line in log)


def test_limit_of_a_step_is_what_the_guard_grants(make_runner):
    limits = []
    runner, _, _ = make_runner({"smoke": lambda limit, _: limits.append(limit) or 0}, total_s=120)
    runner.run(steps("smoke", "right"))
    assert limits == [pytest.approx(120 - GRACE_S - 50)]


def test_variables_that_change_what_is_measured_are_not_inherited(make_runner, monkeypatch):
    changing = {
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",  # NVIDIA's images set it
        "NVIDIA_TF32_OVERRIDE": "1",
        "CUDA_LAUNCH_BLOCKING": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "LENSEMBLE_DTYPE": "fp32",
    }
    choosing = {"CUDA_VISIBLE_DEVICES": "1", "LD_LIBRARY_PATH": "/l", "TRITON_CACHE_DIR": "/c"}
    for name, value in (changing | choosing).items():
        monkeypatch.setenv(name, value)
    seen = {}

    def note(limit_s, environment):
        seen.update(environment)
        return 0

    runner, _, _ = make_runner({"one": note})
    assert runner.run(steps("one"))
    assert not changing.keys() & seen.keys()
    assert choosing.items() <= seen.items()


def test_step_without_its_environment_is_skipped(make_runner):
    def fails():
        raise OSError("no space left")

    interpreters = {"front": Background(lambda: Path("python")), "server": Background(fails)}
    runner, ran, _ = make_runner({}, interpreters=interpreters)
    runner.run([*steps("served", environment="server"), *steps("peers")])
    assert ran == ["peers"]
    outcome = runner.records["served"]["outcome"]
    assert outcome.startswith("skipped: no environment 'server'") and "no space left" in outcome


def test_step_whose_environment_comes_too_late_is_skipped(make_runner, clock):
    class Late:
        def result(self, timeout_s):
            clock.advance(timeout_s - 5)
            return Path("python")

    runner, ran, _ = make_runner({}, interpreters={"front": Late()})
    runner.run(steps("smoke"))
    assert ran == []
    assert "it waited 95 s for what it needs" in runner.records["smoke"]["outcome"]


def test_step_waits_for_a_background_step_that_it_needs(make_runner):
    order = []
    may_end = threading.Event()

    def profile(*_):
        assert may_end.wait(60)
        order.append("profile")
        return 0

    def ceiling(*_):
        order.append("ceiling")
        may_end.set()
        return 0

    runner, _, _ = make_runner(
        {"profile": profile, "ceiling": ceiling, "right": lambda *_: order.append("right") or 0}
    )
    plan = [
        PlannedStep("profile", 0, 60, background=True),
        *steps("ceiling"),
        *steps("right", needs=("profile",)),
    ]
    assert runner.run(plan)
    assert order == ["ceiling", "profile", "right"]


def test_step_whose_background_step_failed_is_skipped(make_runner):
    runner, ran, _ = make_runner({"profile": 1})
    plan = [
        PlannedStep("profile", 0, 60, background=True),
        *steps("right", needs=("profile",)),
        *steps("smoke"),
    ]
    assert not runner.run(plan)
    assert ran == ["profile", "smoke"]
    assert runner.records["right"]["outcome"] == "skipped: profile is failed with status 1"


def test_callers_variables_do_not_reach_a_step(make_runner, monkeypatch):
    monkeypatch.setenv("LENSEMBLE_DTYPE", "fp32")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    seen = []
    runner, _, _ = make_runner({"smoke": lambda _, environment: seen.append(environment) or 0})
    runner.run(steps("smoke"))
    assert "LENSEMBLE_DTYPE" not in seen[0] and "PYTHONPATH" not in seen[0]
