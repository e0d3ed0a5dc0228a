"""How the supervisor handles faults; the server is one small process."""

import socket
import struct
import subprocess
import threading

import httpx
import pytest

from lensemble.operations import supervisor
from lensemble.operations.health_routes import HealthServer
from lensemble.operations.liveness import Fault
from lensemble.operations.supervisor import MAX_STARTS, Supervisor, SupervisorState
from lensemble_contract.errors import InternalError, InvalidInputError
from tests.waiting import DEADLINE_S, until


class SmallServer:
    """Has the methods of `TritonServer`, but runs `sleep`.

    Attributes:
        fails: number of restarts that will fail.
        hangs: whether restarts hang until the server is stopped.
        starting: set while a restart hangs.
    """

    http_url = "http://127.0.0.1:9"
    metrics_url = "http://127.0.0.1:9/metrics"
    models = ()

    def __init__(self, folder):
        self.heartbeats = folder
        self.process = None
        self.fails, self.restarts, self.hangs = 0, 0, False
        self.starting, self.stopped = threading.Event(), threading.Event()

    @property
    def pid(self):
        return self.process and self.process.pid

    def start(self):
        self.process = subprocess.Popen(["sleep", "600"])

    def restart(self):
        self.restarts += 1
        self.stop()
        self.stopped.clear()
        if self.hangs:
            self.starting.set()
            assert self.stopped.wait(DEADLINE_S)
            raise InternalError("the server was stopped while it started")
        if self.fails:
            self.fails -= 1
            raise InternalError("no memory\nand more")
        self.start()

    def stop(self):
        self.stopped.set()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log_tail(self):
        return "(log)"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "CHECK_EVERY_S", 0.003)
    monkeypatch.setattr(supervisor, "_FIRST_WAIT_S", 0.01)
    small = SmallServer(tmp_path)
    yield small
    small.stop()


def test_server_that_died_is_started_again(server):
    with Supervisor(server) as watching:
        assert (watching.state.ready, watching.state.reason) == (True, "")
        first = server.pid
        server.process.kill()
        until(lambda: server.restarts == 1 and watching.state.ready)
        assert server.pid != first
        assert watching.state.restarts == {"died": 1}
        assert watching.state.recovery_s > 0
        assert not watching.wait(0)
    assert server.pid is None
    assert (watching.state.ready, watching.state.reason) == (False, "stopping")


def test_failed_start_is_repeated(server):
    server.fails = 2
    with Supervisor(server) as watching:
        server.process.kill()
        until(lambda: server.restarts == 3 and watching.state.ready)
        assert watching.state.restarts == {"died": 1, "start": 2}


def test_supervisor_gives_up_when_starts_keep_failing(server):
    server.fails = 100
    with Supervisor(server) as watching:
        server.process.kill()
        with pytest.raises(InternalError, match=f"{MAX_STARTS} starts failed; .* no memory"):
            watching.wait(DEADLINE_S)
        assert server.restarts == MAX_STARTS
        assert not watching.state.ready
        assert f"{MAX_STARTS} starts failed" in watching.state.reason


def test_waits_between_failed_starts_grow(server, monkeypatch):
    waits = []
    server.fails = 3
    with Supervisor(server) as watching:
        wait = watching._stopping.wait

        def record_and_wait(seconds):
            waits.append(seconds)
            return wait(min(seconds, 0.01))

        monkeypatch.setattr(watching._stopping, "wait", record_and_wait)
        server.process.kill()
        until(lambda: server.restarts == 4 and watching.state.ready)
    assert [s for s in waits if s != supervisor.CHECK_EVERY_S] == [0.01, 0.02, 0.04]


def test_stop_interrupts_a_start(server):
    server.hangs = True
    with Supervisor(server) as watching:
        server.process.kill()
        assert server.starting.wait(DEADLINE_S)
    assert not watching._thread.is_alive()
    assert server.pid is None
    assert watching.wait(0)  # the interrupted start is not reported as a failure


def test_stopping_the_server_is_not_a_fault(server, monkeypatch, caplog):
    watching = Supervisor(server)

    def find_fault(self):  # the stop begins while faults are looked for
        watching._stopping.set()
        return Fault("died", "tritonserver died")

    monkeypatch.setattr(supervisor.LivenessCheck, "check_processes", find_fault)
    with watching:
        assert watching.wait(DEADLINE_S)
    assert watching.state.restarts == {}
    assert caplog.records == []


def test_server_that_answers_nobody_is_not_ready_and_is_not_restarted(server, monkeypatch):
    reasons = ["", "x has answered nobody", ""]
    monkeypatch.setattr(supervisor, "PING_EVERY_S", 0)
    monkeypatch.setattr(
        supervisor.LivenessCheck, "unanswered", property(lambda self: reasons[0]), raising=True
    )
    with Supervisor(server) as watching:
        until(lambda: watching.state.ready)
        since = watching.state.since
        for _ in range(2):
            reasons.pop(0)
            until(lambda: watching.state.reason == reasons[0], "the reason")
            assert watching.state.ready == (not reasons[0])
        assert watching.state.since > since
        watching.retire()
        assert (watching.state.ready, watching.state.reason) == (False, "stopping")
    assert server.restarts == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [(OSError("no such folder"), "no such folder"), (AssertionError(), "AssertionError")],
    ids=["with text", "without text"],
)
def test_server_is_not_ready_when_watching_fails(server, monkeypatch, error, line):
    def find_fault(self):
        raise error

    monkeypatch.setattr(supervisor.LivenessCheck, "check_processes", find_fault)
    with Supervisor(server) as watching:
        with pytest.raises(InternalError, match=f"has given up: {error}"):
            watching.wait(DEADLINE_S)
        assert not watching.state.ready
        assert watching.state.reason == f"the supervisor has given up: {line}"


def get(url):
    return httpx.get(url, timeout=DEADLINE_S)


def test_health_routes_report_the_state():
    state = SupervisorState()
    with HealthServer(state) as health:
        assert get(f"{health.url}/live").status_code == 200
        answer = get(f"{health.url}/ready")
        assert (answer.status_code, answer.json()["reason"]) == (503, "starting")
        state.ready, state.reason = True, ""
        state.restarts = {"died": 2}
        answer = get(f"{health.url}/ready")
        assert (answer.status_code, answer.json()["restarts"]) == (200, {"died": 2})
        text = get(f"{health.url}/metrics").text
        assert "lensemble_up 1.0\n" in text
        assert 'lensemble_restarts_total{reason="died"} 2.0\n' in text
        assert get(f"{health.url}/other").status_code == 404
        with pytest.raises(InvalidInputError, match="another port"):
            HealthServer(state, int(health.url.rpartition(":")[2]))
    with pytest.raises(httpx.ConnectError):
        get(f"{health.url}/live")


def handler_threads():
    return [each for each in threading.enumerate() if "process_request_thread" in each.name]


def test_checker_that_hangs_up_leaves_no_traceback(capsys):
    with HealthServer(SupervisorState()) as health:
        caller = socket.create_connection(("127.0.0.1", int(health.url.rpartition(":")[2])))
        caller.sendall(b"GET /live HT")
        until(handler_threads, "the request's thread")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()  # sends a reset
        until(lambda: not handler_threads(), "the end of the request's thread")
        assert get(f"{health.url}/live").status_code == 200
    assert capsys.readouterr().err == ""


def test_fault_of_the_health_server_is_written_out(capsys):
    state = SupervisorState()
    state.restarts = None  # its metrics cannot be made
    with HealthServer(state) as health, pytest.raises(httpx.RemoteProtocolError):
        get(f"{health.url}/metrics")
    assert "AttributeError" in capsys.readouterr().err
