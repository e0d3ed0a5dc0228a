"""The wall clock of a server's processes jumps by days, to and fro, while they work.

libfaketime moves the clock for tritonserver and for the models; who watches over them reads only
the monotonic one (`test_resources` sees to that), which no jump moves.
"""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, DeadlineExceededError, Retry

pytestmark = pytest.mark.e2e
LIBRARY = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
JUMPS = ("+2d", "-3d", "+400d", "-0")
"""From the true time, one after the other."""
WRITES = 15
SEGMENTS = Path("/dev/shm")


def today() -> str:
    """As a process of the server sees it."""
    return subprocess.run(["date", "+%F"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def swept():
    """libfaketime leaves a segment and a semaphore behind of each process that is killed."""
    before = set(SEGMENTS.glob("*faketime_*"))
    yield
    for left in set(SEGMENTS.glob("*faketime_*")) - before:
        left.unlink(missing_ok=True)


@pytest.mark.skipif(not LIBRARY, reason="needs Debian's libfaketime")
@pytest.mark.usefixtures("swept")
def test_nobody_notices_a_jump_of_the_clock(checkpoint, tmp_path, monkeypatch):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(LIBRARY[0]),  # of children alone: this process is running already
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",  # as a real jump leaves it
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings(checkpoint=checkpoint, dtype="fp32", index=tmp_path / "index", writes="on")
    days = set()
    with Supervisor(TritonServer(settings)) as up:
        with Client(up.server.grpc_url, timeout_s=20, retry=Retry(tries=1)) as client:
            before = client.embed("a red car")
            for number, jump in enumerate(JUMPS):
                clock.write_text(jump)
                days.add(today())
                for n in range(WRITES):  # longer than a round of the supervisor's pings
                    np.testing.assert_allclose(client.embed("a red car"), before, atol=1e-6)
                    client.ingest(f"{number}/{n}", "a blue car")
                    assert client.search("a blue car")
                    time.sleep(0.1)
                with pytest.raises(DeadlineExceededError):
                    client.embed("x " * 4000, timeout_s=0.001)
                assert client.health()
            assert client.stats()["count"] == WRITES * len(JUMPS)
        assert up.state.restarts == {}
    assert len(days) == len(JUMPS)
