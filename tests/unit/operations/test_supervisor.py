"""What the supervisor does about faults, with a server that is one small process."""

import subprocess
import threading
import time

import httpx
import pytest

from lensemble.operations import supervisor
from lensemble.operations.health_routes import HealthServer
from lensemble.operations.liveness import Fault
from lensemble.operations.supervisor import STARTS, State, Supervisor
from lensemble_contract.errors import InternalError, InvalidInputError

PATIENCE_S = 20


class SmallServer:
    """`TritonServer`'s face; what it runs is `sleep`.

    Attributes:
        fails: Restarts that are yet to fail.
        starting: Set while a restart waits to be stopped.
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
        self.process = subprocess.Popen(["sleep", "60"])

    def restart(self):
        self.restarts += 1
        self.stop()
        self.stopped.clear()
        if self.hangs:
            self.starting.set()
            assert self.stopped.wait(PATIENCE_S)
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
    monkeypatch.setattr(supervisor, "LOOK_S", 0.003)
    monkeypatch.setattr(supervisor, "_WAIT_S", 0.01)
    made = SmallServer(tmp_path)
    yield made
    made.stop()


def until(true):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


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


def test_start_that_fails_is_tried_again(server):
    server.fails = 2
    with Supervisor(server) as watching:
        server.process.kill()
        until(lambda: server.restarts == 3 and watching.state.ready)
        assert watching.state.restarts == {"died": 1, "start": 2}


def test_starts_that_keep_failing_end_it(server):
    server.fails = 100
    with Supervisor(server) as watching:
        server.process.kill()
        with pytest.raises(InternalError, match=f"{STARTS} starts failed; the last one: no memory"):
            watching.wait(PATIENCE_S)
        assert server.restarts == STARTS
        assert not watching.state.ready
        assert f"{STARTS} starts failed" in watching.state.reason


def test_starts_that_fail_are_met_with_waits(server, monkeypatch):
    waits = []
    server.fails = 3
    with Supervisor(server) as watching:
        wait = watching._stopping.wait
        monkeypatch.setattr(
            watching._stopping, "wait", lambda s=None: (waits.append(s), wait(min(s, 0.01)))[1]
        )
        server.process.kill()
        until(lambda: server.restarts == 4 and watching.state.ready)
    assert [s for s in waits if s != supervisor.LOOK_S] == [0.01, 0.02, 0.04]


def test_stop_ends_a_start_that_is_under_way(server):
    server.hangs = True
    with Supervisor(server) as watching:
        server.process.kill()
        assert server.starting.wait(PATIENCE_S)
    assert not watching._thread.is_alive()
    assert server.pid is None
    assert watching.wait(0)  # and says nothing of the start that was cut off


def test_stop_is_no_fault(server, monkeypatch, caplog):
    watching = Supervisor(server)

    def look(self):  # just as it is being stopped
        watching._stopping.set()
        return Fault("died", "tritonserver died")

    monkeypatch.setattr(supervisor.Pulse, "look", look)
    with watching:
        assert watching.wait(PATIENCE_S)
    assert watching.state.restarts == {}
    assert caplog.records == []


def test_server_that_nobody_watches_any_more_is_not_ready(server, monkeypatch):
    def look(self):
        raise OSError("no such folder")

    monkeypatch.setattr(supervisor.Pulse, "look", look)
    with Supervisor(server) as watching:
        with pytest.raises(InternalError, match="given up: no such folder"):
            watching.wait(PATIENCE_S)
        assert not watching.state.ready
        assert watching.state.reason == "nobody watches: no such folder"


def test_routes_say_how_it_is():
    state = State()
    with HealthServer(state) as health:
        assert httpx.get(f"{health.url}/live").status_code == 200
        answer = httpx.get(f"{health.url}/ready")
        assert (answer.status_code, answer.json()["reason"]) == (503, "starting")
        state.ready, state.reason = True, ""
        state.restarts = {"died": 2}
        answer = httpx.get(f"{health.url}/ready")
        assert (answer.status_code, answer.json()["restarts"]) == (200, {"died": 2})
        text = httpx.get(f"{health.url}/metrics").text
        assert "lensemble_up 1.0\n" in text
        assert 'lensemble_restarts_total{reason="died"} 2.0\n' in text
        assert httpx.get(f"{health.url}/other").status_code == 404
        with pytest.raises(InvalidInputError, match="another port"):
            HealthServer(state, int(health.url.rpartition(":")[2]))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{health.url}/live")
