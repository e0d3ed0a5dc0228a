"""A server that lacks memory, disk or shared memory, or has slow callers, serves all others."""

import contextlib
import re
import resource
import socket
import subprocess
import sys
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
from tests.paths import ROOT
from tests.waiting import DEADLINE_S, until

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
    with Client(watching.server.grpc_url, retry=ONCE, timeout_s=DEADLINE_S) as client:
        yield client
    assert watching.state.restarts == before


@contextlib.contextmanager
def limited(watching, model, kind, limit):
    """Puts a resource limit on a model process inside the block."""
    heartbeats = read_heartbeats(watching.server.heartbeats)
    process = psutil.Process(next(each.pid for each in heartbeats if each.model == model))
    before = process.rlimit(kind)
    process.rlimit(kind, (limit(process), before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # the limit killed it
            process.rlimit(kind, before)


def test_writes_fail_and_reads_go_on_when_the_disk_is_full(watching, client):
    client.ingest("before", "a red car", document={})
    with limited(watching, "store", resource.RLIMIT_FSIZE, lambda _: 0):
        for n in range(3):
            with pytest.raises(StorageError):
                client.ingest(f"lost {n}", "a blue car", document={})
        assert client.embed("a blue car").shape == (256,)
        assert client.get("before").id == "before"
        assert [hit.id for hit in client.search("a red car")] == ["before"]
    client.ingest("after", "a green car", document={})
    assert {hit.id for hit in client.search("car")} == {"before", "after"}


def test_encoder_without_memory(watching):
    """Batches are halved; an item that does not fit alone gets its own error. If the process dies,
    because Triton itself cannot allocate memory, it is restarted."""
    few = [Item(f"a car {n}") for n in range(8)]
    large = [Item(f"{n} " + "word " * 7500) for n in range(8)]
    with Client(watching.server.grpc_url, retry=ONCE, timeout_s=DEADLINE_S) as client:
        expected = client.embed_many(few)
        with limited(
            watching,
            "qwen3_vl",
            resource.RLIMIT_AS,
            lambda process: process.memory_info().vms + 1024**2,
        ):
            answers = client.embed_many(large, batch_size=8)
        assert all(isinstance(answer, np.ndarray | LensembleError) for answer in answers)
        assert any(isinstance(answer, LensembleError) for answer in answers)
        until(client.health)
        for vector, before in zip(client.embed_many(few), expected, strict=True):
            np.testing.assert_allclose(vector, before, atol=1e-5)
        vectors = client.embed_many(large, batch_size=8)
        assert all(isinstance(vector, np.ndarray) for vector in vectors)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_slow_callers_do_not_delay_others(watching, client, protocol):
    """Two hundred callers send half a request or nothing, and stay connected."""
    address = urlsplit(getattr(watching.server, f"{protocol}_url"))
    half = b"PRI * HTTP/2.0\r\n" if protocol == "grpc" else (
        b"POST /v2/models/embed/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for n in range(200):
            slow = stack.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S)
            )
            if n % 4:
                slow.sendall(half)
        url = getattr(watching.server, f"{protocol}_url")
        with Client(url, retry=ONCE, timeout_s=DEADLINE_S) as other:
            for _ in range(20):
                assert other.embed("a red car").shape == (256,)


def test_callers_who_disconnect_leave_no_connection(watching):
    """Callers close their connections while their requests are in flight."""
    address = urlsplit(watching.server.http_url)
    body = (
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["'
        + b"word " * 300
        + b'"]}]}'
    )

    def send_and_disconnect(_):
        with socket.create_connection(
            (address.hostname, address.port), timeout=DEADLINE_S
        ) as caller:
            caller.sendall(
                b"POST /v2/models/embed/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )

    before = psutil.Process(watching.server.pid).num_fds()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send_and_disconnect, range(100)))
    # While their texts wait, a single call may be refused; `embed_many` repeats it.
    with Client(watching.server.grpc_url, timeout_s=DEADLINE_S) as patient:
        (expected,), (again,) = (patient.embed_many([Item("a red car")]) for _ in range(2))
    np.testing.assert_allclose(again, expected, atol=1e-5)
    until(lambda: psutil.Process(watching.server.pid).num_fds() <= before + 5)


@pytest.mark.slow
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
        timeout=4 * DEADLINE_S,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1] == "intact"


def test_no_deadline_uses_a_clock_that_can_be_set():
    """Only times that people read come from the wall clock: setting it must not move a deadline."""
    shown_to_people = {
        "lensemble/gateway/routes/rag.py",
        "lensemble/operations/logs.py",
        "lensemble/operations/supervisor.py",
    }
    using_the_wall_clock = {
        str(path.relative_to(ROOT))
        for folder in ("lensemble", "cli", "client", "model_repository")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now\(|utcnow\(", path.read_text())
    }
    assert using_the_wall_clock <= shown_to_people
