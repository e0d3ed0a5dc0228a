"""No memory, no disk, no shared memory, callers who are slow: others go on, and it ends."""

import contextlib
import re
import resource
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.settings import Settings
from lensemble_client import Client, Item, LensembleError, Retry, StorageError
from tests.faults.harness import PATIENCE_S, ROOT

pytestmark = pytest.mark.e2e

ONCE = Retry(tries=1)


@pytest.fixture(scope="module")
def watching(checkpoint, tmp_path_factory):
    settings = Settings(
        checkpoint=checkpoint,
        dtype="fp32",
        index=tmp_path_factory.mktemp("index") / "index",
        writes="on",
    )
    with Supervisor(TritonServer(settings)) as running:
        yield running


@pytest.fixture
def client(watching):
    before = dict(watching.state.restarts)
    with Client(watching.server.grpc_url, retry=ONCE, timeout_s=60) as made:
        yield made
    assert watching.state.restarts == before


@contextlib.contextmanager
def limited(watching, model, kind, most):
    """A model's process under a limit."""
    beats = read_heartbeats(watching.server.heartbeats)
    process = psutil.Process(next(beat.pid for beat in beats if beat.model == model))
    before = process.rlimit(kind)
    process.rlimit(kind, (most(process), before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # it died of it
            process.rlimit(kind, before)


def test_disk_that_takes_no_more(watching, client):
    client.ingest("before", "a red car", document={})
    with limited(watching, "store", resource.RLIMIT_FSIZE, lambda _: 0):
        for n in range(3):
            with pytest.raises(StorageError):
                client.ingest(f"lost {n}", "a blue car", document={})
        assert client.embed("a blue car").shape
        assert client.get("before").id == "before"
        assert [hit.id for hit in client.search("a red car")] == ["before"]
    client.ingest("after", "a green car", document={})
    assert {hit.id for hit in client.search("car")} == {"before", "after"}


def test_encoder_without_memory(watching):
    """Batches are halved, and what does not fit alone has an error of its own. If the process dies
    of it, which is up to Triton's own allocations, it comes back."""
    few = [Item(f"a car {n}") for n in range(8)]
    large = [Item(f"{n} " + "word " * 7500) for n in range(8)]
    with Client(watching.server.grpc_url, retry=ONCE, timeout_s=60) as client:
        expected = client.embed_many(few)
        with limited(
            watching,
            "qwen3_vl",
            resource.RLIMIT_AS,
            lambda process: process.memory_info().vms + 1024**2,
        ):
            answers = client.embed_many(large, batch_size=8)
        assert all(isinstance(one, np.ndarray | LensembleError) for one in answers)
        assert any(isinstance(one, LensembleError) for one in answers)
        end = time.monotonic() + PATIENCE_S
        while not client.health():
            assert time.monotonic() < end
            time.sleep(0.2)
        for one, other in zip(client.embed_many(few), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert all(isinstance(one, np.ndarray) for one in client.embed_many(large, batch_size=8))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_slow_callers_hold_up_nobody(watching, client, protocol):
    """Two hundred who send half a request, or nothing, and stay."""
    address = urlsplit(getattr(watching.server, f"{protocol}_url"))
    half = b"PRI * HTTP/2.0\r\n" if protocol == "grpc" else (
        b"POST /v2/models/embed/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for n in range(200):
            slow = stack.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=5)
            )
            if n % 4:
                slow.sendall(half)
        began = time.monotonic()
        with Client(getattr(watching.server, f"{protocol}_url"), retry=ONCE) as other:
            for _ in range(20):
                other.embed("a red car")
        assert time.monotonic() - began < 20


def test_callers_who_go_in_the_middle_leave_nothing(watching):
    """Connections cut while their requests are under way."""
    address = urlsplit(watching.server.http_url)
    body = (
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["'
        + b"word " * 3000
        + b'"]}]}'
    )

    def cut(_):
        with socket.create_connection((address.hostname, address.port), timeout=5) as caller:
            caller.sendall(
                b"POST /v2/models/embed/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )

    before = psutil.Process(watching.server.pid).num_fds()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(cut, range(100)))
    # While their texts wait, a lone call may be refused; one that sends many tries again.
    with Client(watching.server.grpc_url, timeout_s=60) as patient:
        (expected,), (again,) = (patient.embed_many([Item("a red car")]) for _ in range(2))
    np.testing.assert_allclose(again, expected, atol=1e-5)
    end = time.monotonic() + 30
    while psutil.Process(watching.server.pid).num_fds() > before + 5:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_full_shared_memory(checkpoint, tmp_path):
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    command = [*enter, sys.executable, "-m", "tests.faults.small_shm"]
    done = subprocess.run(
        [*command, str(checkpoint), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1] == "whole"


def test_nothing_waits_by_a_clock_that_can_be_set():
    """The time on the wall is for people alone; a jump of it moves no deadline and no limit."""
    told = {
        "lensemble/gateway/routes/rag.py",
        "lensemble/operations/logs.py",
        "lensemble/operations/supervisor.py",
    }
    found = {
        str(path.relative_to(ROOT))
        for folder in ("lensemble", "cli", "client", "model_repository")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now\(|utcnow\(", path.read_text())
    }
    assert found <= told
