"""The wall clock of the server's processes jumps by days, forward and back, while they work.

libfaketime moves the wall clock of tritonserver and of the model processes. The supervisor reads
only the monotonic clock, which such a jump does not move (`test_resources` checks that).
"""

import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from lensemble.operations.liveness import LivenessCheck
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, DeadlineExceededError, Retry
from tests.waiting import DEADLINE_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LIBRARY = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
JUMPS = ("+2d", "-3d", "+400d", "-0")  # offsets from the true time, set one after the other
WRITES = 15
SHARED_MEMORY = Path("/dev/shm")


class PingCounter:
    """Counts the supervisor's finished rounds of pings."""

    def __init__(self, monkeypatch):
        self._changed = threading.Condition()
        self._count = 0
        ping = LivenessCheck.ping

        def counted_ping(check):
            fault = ping(check)
            with self._changed:
                self._count += 1
                self._changed.notify_all()
            return fault

        monkeypatch.setattr(LivenessCheck, "ping", counted_ping)

    def wait_for(self, rounds):
        """Waits until this many further rounds have finished."""
        with self._changed:
            last = self._count + rounds
            assert self._changed.wait_for(lambda: self._count >= last, DEADLINE_S)


def server_date() -> str:
    """Today's date for a process that the server could start."""
    return subprocess.run(["date", "+%F"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def faketime_cleanup():
    """libfaketime leaves a segment and a semaphore behind for each process that is killed."""
    before = set(SHARED_MEMORY.glob("*faketime_*"))
    yield
    for path in set(SHARED_MEMORY.glob("*faketime_*")) - before:
        path.unlink(missing_ok=True)


@pytest.mark.skipif(not LIBRARY, reason="needs Debian's libfaketime")
@pytest.mark.usefixtures("faketime_cleanup")
def test_jumps_of_the_wall_clock_change_nothing(checkpoint, tmp_path, monkeypatch):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(LIBRARY[0]),  # only child processes load it: this one is running already
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",  # a real jump does not move the monotonic clock either
    }.items():
        monkeypatch.setenv(name, value)
    pings = PingCounter(monkeypatch)
    settings = Settings(checkpoint=checkpoint, dtype="fp32", index=tmp_path / "index", writes="on")
    dates = set()
    with Supervisor(TritonServer(settings)) as supervisor:
        with Client(
            supervisor.server.grpc_url, timeout_s=DEADLINE_S, retry=Retry(tries=1)
        ) as client:
            before = client.embed("a red car")
            for number, jump in enumerate(JUMPS):
                clock.write_text(jump)
                dates.add(server_date())
                for n in range(WRITES):
                    np.testing.assert_allclose(client.embed("a red car"), before, atol=1e-6)
                    client.ingest(f"{number}/{n}", "a blue car")
                    assert client.search("a blue car")
                with pytest.raises(DeadlineExceededError):
                    client.embed("x " * 4000, timeout_s=0.001)
                # The first of these rounds may have begun before the jump, the second one has not.
                pings.wait_for(2)
                assert client.health()
            assert client.stats()["count"] == WRITES * len(JUMPS)
        assert supervisor.state.restarts == {}
    assert len(dates) == len(JUMPS)
