"""A server's processes, stood for by small ones that do what a model's would."""

import signal
import subprocess
import sys
import time

import pytest

from lensemble.operations import liveness
from lensemble.operations.liveness import Pulse
from lensemble.scheduling import heartbeat
from lensemble.scheduling.heartbeat import Heartbeat
from lensemble_contract.errors import DeadlineExceededError, InternalError, OverloadedError

NOTHING_LISTENS = "http://127.0.0.1:9"
MODEL = """
import sys, time
from pathlib import Path
from lensemble.scheduling.heartbeat import Heartbeat
beat = Heartbeat(Path(sys.argv[1]), "qwen3_vl", 0.3)
print("loaded", flush=True)
what = sys.argv[2]
if what == "idle":
    time.sleep(60)
with beat.during():
    while what == "works":
        pass
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "beats").mkdir()
    return tmp_path / "beats"


@pytest.fixture
def started(folder):
    """What a model does -> its process, and the pulse of its server."""
    processes, pulses = [], []

    def start(what):
        command = [sys.executable, "-c", MODEL, str(folder), what]
        model = subprocess.Popen(command, stdout=subprocess.PIPE)
        server = subprocess.Popen(["sleep", "60"])
        processes.extend([model, server])
        assert model.stdout.readline() == b"loaded\n"
        pulses.append(Pulse(server.pid, NOTHING_LISTENS, folder, ["qwen3_vl"]))
        return model, server, pulses[0]

    yield start
    for one in pulses:
        one.close()
    for one in processes:
        one.kill()
        one.communicate()


def fault_within(watched, patience_s):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if fault := watched.look():
            return fault
        time.sleep(0.02)
    return None


def test_idle_model_is_sound(started):
    _, _, watched = started("idle")
    assert fault_within(watched, 0.8) is None


def test_dead_model_is_found(started):
    model, _, watched = started("idle")
    model.kill()
    fault = fault_within(watched, 5)
    assert (fault.reason, fault.text) == ("died", f"qwen3_vl (process {model.pid}) died")


def test_dead_server_is_found(started):
    _, server, watched = started("idle")
    server.kill()
    assert fault_within(watched, 5).text == f"tritonserver (process {server.pid}) died"


def test_stopped_model_is_found(started):
    model, _, watched = started("idle")
    model.send_signal(signal.SIGSTOP)
    assert fault_within(watched, 5).reason == "stopped"
    model.send_signal(signal.SIGCONT)


def test_model_that_hangs_in_a_call_is_found(started):
    model, _, watched = started("hangs")
    fault = fault_within(watched, 10)
    assert fault.reason == "hangs"
    assert fault.text.startswith("qwen3_vl hangs: one call for ")
    assert f"(process {model.pid})" in fault.text


def test_model_that_works_has_time_but_not_for_ever(started, monkeypatch):
    _, _, watched = started("works")
    assert fault_within(watched, 1.5) is None  # five times its patience
    monkeypatch.setattr(liveness, "_AS_LONG", 3)
    assert "qwen3_vl does not end" in fault_within(watched, 5).text


def test_model_that_died_before_it_is_looked_at(folder, started):
    model, server, _ = started("idle")
    model.kill()
    model.wait()
    with pytest.raises(liveness.psutil.NoSuchProcess):
        Pulse(server.pid, NOTHING_LISTENS, folder, ["qwen3_vl"])


class Answers:
    """In place of the client: an error, or none."""

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
def test_pings(started, monkeypatch, error, reason):
    _, _, watched = started("idle")
    watched._client.close()
    watched._client = Answers(error)
    monkeypatch.setattr(liveness, "_SILENT_S", 0.05)
    found = []
    for _ in range(3):
        time.sleep(0.1)
        found.append(fault.reason if (fault := watched.ping()) else None)
    assert found[-1] == reason
    if reason == "failing":
        assert found[0] is None  # once may be chance


def test_late_answer_of_a_model_in_a_call_is_no_silence(started, monkeypatch):
    _, _, watched = started("works")
    watched._client.close()
    watched._client = Answers(DeadlineExceededError("late"))
    monkeypatch.setattr(liveness, "_SILENT_S", 0.05)
    for _ in range(3):
        time.sleep(0.1)
        assert watched.ping() is None


def test_notes_are_read_back(folder):
    beat = Heartbeat(folder, "clip-large", 2.5)
    (idle,) = heartbeat.read(folder)
    assert (idle.model, idle.since, idle.patience_s) == ("clip-large", None, 2.5)
    before = time.monotonic()
    with pytest.raises(ZeroDivisionError), beat.during():
        (busy,) = heartbeat.read(folder)
        assert before <= busy.since <= time.monotonic()
        raise ZeroDivisionError
    assert heartbeat.read(folder) == [idle]
    (folder / "faiss-1").write_bytes(b"half")
    assert heartbeat.read(folder) == [idle]


def test_nobody_watches(tmp_path):
    for nowhere in (None, tmp_path / "missing"):
        with Heartbeat(nowhere, "faiss", 1).during():
            pass
    assert list(tmp_path.iterdir()) == []
