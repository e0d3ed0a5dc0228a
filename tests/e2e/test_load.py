"""A load test from the command to the report, against the real Triton."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load.report.request_statistics import ALL
from benchmarks.load.scenario import FOLDER
from tests.paths import ROOT

pytestmark = pytest.mark.e2e


def load(*arguments):
    """Returns the exit status, the content of the last line of standard output, and all output."""
    command = [sys.executable, "-m", "benchmarks.load", *map(str, arguments)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = completed.stdout.splitlines()
    closing_line = json.loads(lines[-1]) if completed.returncode != 2 else None
    return completed.returncode, closing_line, completed.stdout + completed.stderr


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("load")
    return out, *load("smoke", "--workers", 2, "--out", out)


def test_smoke_starts_the_server_and_passes(smoke):
    out, status, closing_line, printed = smoke
    assert status == 0, printed
    assert closing_line["passed"] and closing_line["folder"] == str(out)
    for step, users in zip(closing_line["steps"], (2, 4), strict=True):
        assert step["level"] == users
        assert step["error_rate"] == 0
        assert 0 < step["p50_ms"] <= step["p95_ms"] <= step["p99_ms"] <= step["max_ms"]


def test_report_has_what_callers_saw_and_what_the_server_did(smoke):
    out, _, closing_line, printed = smoke
    result = json.loads((out / "result.json").read_text())
    for step in result["steps"]:
        kinds = step["kinds"]
        assert list(kinds)[-1] == ALL and len(kinds) > 1
        assert kinds[ALL]["requests"] == sum(
            summary["requests"] for kind, summary in kinds.items() if kind != ALL
        )
        server = step["server"]
        assert {"tritonserver", "preprocess", "qwen3_vl", "locust"} <= server["processes"].keys()
        assert server["processes"]["preprocess"]["processes"] == 2
        assert server["processes"]["locust"]["processes"] == 3  # two workers and their master
        assert server["shared_memory_mib"] > 0
    models = [step["server"]["models"] for step in result["steps"]]
    encoders = [of_step["qwen3_vl"] for of_step in models if "qwen3_vl" in of_step]
    assert encoders and all(model["compute_infer_ms"] > 0 for model in encoders)
    assert all(model["batches"] for model in encoders)
    with (out / "result.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["p99_ms"]) for row in rows if row["kind"] == ALL] == [
        step["p99_ms"] for step in closing_line["steps"]
    ]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "passed" in page
    # The page refers to no other file. The colon is needed: "http" once occurred in the base64.
    assert "http:" not in page and "https:" not in page
    assert all((out / name).is_file() for name in ("latency.png", "stages.png", "batches.png"))
    assert "2 users" in printed and "qwen3_vl" in printed


def test_no_locust_process_is_left(smoke):
    out, *_ = smoke
    commands = Path("/proc").glob("[0-9]*/cmdline")
    assert not [word for command in commands for word in _words(command) if str(out) in word]


def _words(command):
    try:
        return command.read_text(errors="replace").split("\0")
    except OSError:  # the process has ended
        return []


def test_limit_that_is_not_met_is_exit_status_1(server, tmp_path):
    text = (FOLDER / "smoke.toml").read_text()
    text = text.replace("users = [2, 4]", "users = [2]") + "max_p99_ms = 0.001\n"
    (tmp_path / "impossible.toml").write_text(text)
    status, closing_line, printed = load(
        tmp_path / "impossible.toml", "--url", server.grpc_url, "--out", tmp_path / "out"
    )
    assert status == 1, printed
    assert closing_line["failed"] == ["2 users: max_p99_ms"] and not closing_line["passed"]
    assert "FAILED" in printed and "<= 0.001" in printed
    (step,) = json.loads((tmp_path / "out" / "result.json").read_text())["steps"]
    assert step["server"]["models"]["qwen3_vl"]["requests"] > 0  # statistics over gRPC
    assert step["server"]["processes"].keys() == {"locust"}  # those of the server cannot be seen


_WRITES = """
about = "Writes to a server that is read-only."
workload = "demo"
protocol = "http"
actions = [{ name = "ingest", mix = "text" }]
users = [2]
seconds = 1
limits = { max_error_rate = 0.5 }
warm_up_s = 0.5
"""


def test_plain_locust_counts_errors_by_class(server, tmp_path):
    (tmp_path / "writes.toml").write_text(_WRITES)
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--headless"]
    command += ["--scenario", str(tmp_path / "writes.toml"), "--host", server.http_url]
    command += ["--result-file", str(tmp_path / "result.json")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 1, completed.stderr
    assert "max_error_rate" in completed.stderr and "<= 0.5" in completed.stderr
    (step,) = json.loads((tmp_path / "result.json").read_text())["steps"]
    assert step["kinds"][ALL]["errors"].keys() == {"ReadOnlyError"}
    assert step["kinds"][ALL]["error_rate"] == 1 and step["kinds"][ALL]["requests"] == 0
    assert "ReadOnlyError" in completed.stderr  # Locust's own table has them too


def test_unknown_scenario_is_exit_status_2():
    status, _, printed = load("smok")
    assert status == 2 and "expected one of" in printed and "Traceback" not in printed
