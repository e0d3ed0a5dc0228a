"""The liveness check, on small processes that behave like a model's: idle, hanging or working."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from lensemble.operations import liveness
from lensemble.operations.liveness import LivenessCheck
from lensemble.scheduling.heartbeat import HeartbeatWriter, read_heartbeats
from lensemble_contract.errors import DeadlineExceededError, InternalError, OverloadedError
from tests.waiting import FakeClock, until

PATIENCE_S = 0.3
NOTHING_LISTENS = "http://127.0.0.1:9"
MODEL = """
import sys, time
from pathlib import Path
from lensemble.scheduling.heartbeat import HeartbeatWriter
beat = HeartbeatWriter(Path(sys.argv[1]), "qwen3_vl", 0.3)
print("loaded", flush=True)
if sys.argv[2] == "idle":
    time.sleep(600)
with beat.during_call():
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "beats").mkdir()
    return tmp_path / "beats"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def start(folder, clock):
    """Starts a model process, and returns it with its server's process and their check."""
    processes, checks = [], []

    def start(behaviour):
        command = [sys.executable, "-c", MODEL, str(folder), behaviour]
        model = subprocess.Popen(command, stdout=subprocess.PIPE)
        server = subprocess.Popen(["sleep", "600"])
        processes.extend([model, server])
        assert model.stdout.readline() == b"loaded\n"
        if behaviour != "idle":
            until(lambda: read_heartbeats(folder)[0].since, "the call")
            clock.now = time.monotonic()
        check = LivenessCheck(server.pid, NOTHING_LISTENS, folder, ["qwen3_vl"], clock)
        checks.append(check)
        return model, server, check

    yield start
    for check in checks:
        check.close()
    for process in processes:
        process.kill()
        process.communicate()


def check_often(check, clock, seconds):
    """The first fault within some seconds of the fake clock, or None."""
    end = clock() + seconds
    while clock() < end:
        if fault := check.check_processes():
            return fault
        clock.advance(PATIENCE_S / 3)
    return None


def test_idle_model_has_no_fault(start, clock):
    _, _, check = start("idle")
    assert check_often(check, clock, 100 * PATIENCE_S) is None


def test_dead_model_is_found(start):
    model, _, check = start("idle")
    model.kill()
    fault = until(check.check_processes)
    assert (fault.reason, fault.text) == ("died", f"qwen3_vl (process {model.pid}) died")


def test_dead_server_is_found(start):
    _, server, check = start("idle")
    server.kill()
    assert until(check.check_processes).text == f"tritonserver (process {server.pid}) died"


def test_stopped_model_is_found(start):
    model, _, check = start("idle")
    model.send_signal(signal.SIGSTOP)
    assert until(check.check_processes).reason == "stopped"


def test_model_that_hangs_in_a_call_is_found(start, clock):
    model, _, check = start("in a call")
    fault = check_often(check, clock, 10 * PATIENCE_S)
    assert fault.reason == "hangs"
    assert fault.text.startswith("qwen3_vl hangs: one call for ")
    assert f"(process {model.pid})" in fault.text


def test_model_that_keeps_working_may_take_long_but_not_for_ever(start, clock, monkeypatch):
    monkeypatch.setattr(liveness, "_cpu_s", lambda process: clock())  # uses one whole core
    _, _, check = start("in a call")
    assert check_often(check, clock, 99 * PATIENCE_S) is None
    assert "qwen3_vl does not end" in check_often(check, clock, 2 * PATIENCE_S).text


def test_cpu_time_of_a_child_counts():
    """`preprocess` waits for the child that decodes a large picture."""
    work = "import sys, time\nwhile time.process_time() < 0.3: pass\n"
    work += "print(flush=True)\nsys.stdin.read()"

    def children_cpu_s():
        own = process.cpu_times()
        return liveness._cpu_s(process) - own.user - own.system

    process = psutil.Process()
    before = children_cpu_s()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", work], **pipes) as child:
        child.stdout.readline()
        assert children_cpu_s() - before > 0.2, "while it lives"
        child.stdin.close()
    assert children_cpu_s() - before > 0.2, "when it has ended"


def test_model_that_died_before_the_first_check_is_found(folder, start):
    model, server, _ = start("idle")
    model.kill()
    model.wait()
    with pytest.raises(liveness.psutil.NoSuchProcess):
        LivenessCheck(server.pid, NOTHING_LISTENS, folder, ["qwen3_vl"])


class Answers:
    """Stands in for the client: every call raises the error, if there is one."""

    def __init__(self, error):
        self.error = error

    def run(self, call, timeout_s):
        assert call.model.name == "qwen3_vl"
        if self.error is not None:
            raise self.error

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (OverloadedError("busy"), None),
        (DeadlineExceededError("late"), "silent"),
        (InternalError("no context"), "failing"),
    ],
)
def test_pings(start, clock, error, reason):
    _, _, check = start("idle")
    check._client.close()
    check._client = Answers(error)
    reasons = []
    for _ in range(2):
        clock.advance(6)  # a model may be silent for longer than 6 s, but not for 12 s
        reasons.append(fault.reason if (fault := check.ping()) else None)
    assert reasons == [None, reason]  # one failure may be chance


def test_model_in_a_call_may_leave_pings_unanswered(start, clock):
    _, _, check = start("in a call")
    check._client.close()
    check._client = Answers(DeadlineExceededError("late"))
    for _ in range(3):
        clock.advance(6)
        assert check.ping() is None


@pytest.mark.parametrize("error", [None, InternalError("x"), DeadlineExceededError("late")])
def test_model_that_answers_nobody_is_reported(start, clock, error):
    """An error is an answer; a model that works on one call for long gives none."""
    _, _, check = start("in a call")
    check._client.close()
    check._client = Answers(error)
    for _ in range(2):
        assert check.unanswered == ""
        clock.advance(5)
        check.check_processes()
        check.ping()
    assert check.unanswered == ""
    clock.advance(0.1)
    if isinstance(error, DeadlineExceededError):
        assert check.unanswered.startswith("qwen3_vl has answered nobody for 10 s")
        check._client = Answers(None)
    check.ping()
    assert check.unanswered == ""


def test_model_whose_calls_end_answers_somebody(start, clock, folder):
    """A ping may wait behind many callers who are answered."""
    _, _, check = start("idle")
    check._client.close()
    check._client = Answers(DeadlineExceededError("late"))
    writer = HeartbeatWriter(folder, "qwen3_vl", 1e6)
    for _ in range(3):
        clock.advance(6)
        with writer.during_call():
            check.check_processes()
        check.check_processes()
        check.ping()
        assert check.unanswered == ""
    with writer.during_call():
        for _ in range(3):
            clock.advance(6)
            check.check_processes()
            check.ping()
        assert check.unanswered


def test_heartbeats_are_read_back(folder):
    writer = HeartbeatWriter(folder, "clip-large", 2.5)
    (idle,) = read_heartbeats(folder)
    assert (idle.model, idle.since, idle.patience_s) == ("clip-large", None, 2.5)
    before = time.monotonic()
    with pytest.raises(ZeroDivisionError), writer.during_call():
        (busy,) = read_heartbeats(folder)
        assert before <= busy.since <= time.monotonic()
        raise ZeroDivisionError
    assert read_heartbeats(folder) == [idle]
    (folder / "faiss-1").write_bytes(b"half")
    assert read_heartbeats(folder) == [idle]


def test_without_a_folder_no_heartbeat_is_written(tmp_path):
    for folder in (None, tmp_path / "missing"):
        with HeartbeatWriter(folder, "faiss", 1).during_call():
            pass
    assert list(tmp_path.iterdir()) == []
