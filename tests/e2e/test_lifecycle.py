"""The server starts or reports why it cannot, and leaves nothing behind when it stops."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from lensemble.operations.installation import find_tritonserver
from lensemble.operations.model_repository import write_repository
from lensemble.operations.ports import free_ports
from lensemble.operations.readiness import wait_until_ready
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_cli.main import main
from lensemble_client import Client, DeadlineExceededError, InternalError, InvalidInputError, Item
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e


class Family:
    """A process with its children; one of them is tritonserver, which has shared memory."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self.processes = [process, *process.children(recursive=True)]
        (self.server,) = [p for p in self.processes if p.name() == "tritonserver"]
        (argument,) = [a for a in self.server.cmdline() if "shm-region-prefix-name" in a]
        self.prefix = argument.split("=")[-1]

    def segments(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.prefix}*"))

    def suspend_models(self) -> None:
        """Suspends the model processes, so that they cannot end by themselves."""
        for process in self.server.children(recursive=True):
            process.suspend()


def is_running(process: psutil.Process) -> bool:
    try:  # a zombie has ended, but its parent has not collected it yet
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(family: Family) -> None:
    until(lambda: not any(map(is_running, family.processes)), "the end of all processes")
    assert not family.segments()


def assert_nothing_left(server: TritonServer) -> None:
    assert server.pid is None
    assert not server.log_file.parent.exists()
    assert not list(Path("/dev/shm").glob(f"{server._shared_memory_prefix}*"))


def test_stop_leaves_no_process_no_segment_no_file(checkpoint):
    with TritonServer(Settings(checkpoint=checkpoint)) as server:
        family = Family(server.pid)
        folder = server.log_file.parent
        assert len(family.processes) >= 5, "the server and a process per model instance"
        assert family.segments()
    assert_gone(family)
    assert not folder.exists()
    server.stop()  # a second call does no harm


@pytest.mark.slow
def test_killed_server_leaves_nothing_behind(checkpoint):
    server = TritonServer(Settings(checkpoint=checkpoint)).start()
    family = Family(server.pid)
    family.suspend_models()
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    server.stop()
    assert_gone(family)


@pytest.mark.slow
def test_program_that_fails_without_stopping_its_server_leaves_nothing_behind(checkpoint):
    code = (
        "import sys; from pathlib import Path; from lensemble.settings import Settings\n"
        "from lensemble.operations.tritonserver import TritonServer\n"
        "server = TritonServer(Settings(checkpoint=Path(sys.argv[1]))).start()\n"
        "print(server.pid, flush=True); sys.stdin.readline(); raise RuntimeError('oops')"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        family = Family(int(program.stdout.readline()))
        _, errors = program.communicate("go on\n", timeout=DEADLINE_S)
        assert "oops" in errors
        assert_gone(family)
    finally:
        program.kill()


def test_hanging_server_is_killed_with_its_models(checkpoint, monkeypatch):
    monkeypatch.setattr("lensemble.operations.tritonserver.STOP_TIMEOUT_S", 0.5)
    server = TritonServer(Settings(checkpoint=checkpoint)).start()
    family = Family(server.pid)
    for process in family.processes:
        process.suspend()
    server.stop()
    assert_gone(family)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_up_stops_in_order_on_a_signal(checkpoint, index_folder, number):
    command = [sys.executable, "-m", "lensemble_cli.main", "up", "--checkpoint", str(checkpoint)]
    command += ["--index", str(index_folder), "--dtype", "fp32"]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command += ["--health-port", "0"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        grpc, http, metrics = (up.stdout.readline().strip() for _ in range(3))
        family = Family(up.pid)
        for url in (grpc, http):
            with Client(url) as client:
                assert client.search("x", top_k=1)
        assert metrics.endswith("/metrics")
        up.send_signal(number)
        _, errors = up.communicate(timeout=DEADLINE_S)
        assert up.returncode == 0, errors
        assert "stopping" in errors
        assert_gone(family)
    finally:
        up.kill()


def test_second_signal_does_not_interrupt_the_stop():
    script = """
import os, signal
from lensemble.operations.signals import stop_on_signals
try:
    with stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            print("stopped in order")
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["stopped in order", "True", ""], done.stderr


def test_up_restarts_a_server_that_died(checkpoint):
    command = [sys.executable, "-m", "lensemble_cli.main", "up", "--checkpoint", str(checkpoint)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command += ["--health-port", "0", "--dtype", "fp32"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        grpc, _, _, health = (up.stdout.readline().strip() for _ in range(4))
        ready = health.removeprefix("health: ") + "/ready"

        def readiness():
            return httpx.get(ready, timeout=DEADLINE_S)

        assert readiness().json()["status"] == "ok"
        first = Family(up.pid)
        first.server.kill()
        until(lambda: readiness().json()["restarts"] == {"died": 1})
        until(lambda: readiness().status_code == 200)
        with Client(grpc) as client:
            assert client.embed("x").shape == (256,)
        second = Family(up.pid)
        assert second.server.pid != first.server.pid
        up.send_signal(signal.SIGTERM)
        _, errors = up.communicate(timeout=DEADLINE_S)
        assert up.returncode == 0, errors
        assert "tritonserver (process" in errors
        assert "serving again after" in errors
        for family in (first, second):
            assert_gone(family)
    finally:
        up.kill()


def test_failed_start_shows_the_reason(checkpoints, index_folder, tmp_path):
    for settings, reason in (
        (Settings(checkpoint=tmp_path), "not a serving checkpoint"),
        (
            Settings(checkpoint=checkpoints["qwen3-vl-mean"], index=index_folder),
            "they cannot be compared",
        ),
    ):
        server = TritonServer(settings)
        with pytest.raises(InternalError, match=r"^\w+ could not be loaded: .*$") as caught:
            server.start()
        assert reason in str(caught.value)
        assert_nothing_left(server)


def test_start_that_takes_too_long_fails(checkpoint):
    server = TritonServer(Settings(checkpoint=checkpoint), start_timeout_s=0.5, start_tries=1)
    with pytest.raises(DeadlineExceededError, match=r"not ready within 0.5 s"):
        server.start()
    assert_nothing_left(server)


@pytest.mark.slow
def test_error_of_a_hanging_start_shows_where_it_hangs(checkpoint, tmp_path, monkeypatch):
    folder = write_repository(Settings(checkpoint=checkpoint), tmp_path / "models")
    asleep = tmp_path / "asleep"
    (folder / "preprocess/1/model.py").write_text(
        "import time, pathlib\n"
        "from lensemble.stages import python_backend\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        self.sleep_for_ever()\n"
        f"    def sleep_for_ever(self, path={str(asleep)!r}):\n"
        "        pathlib.Path(path).touch(); time.sleep(600)\n"
    )

    class Clock:
        """Goes ten minutes ahead as soon as the model sleeps."""

        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic():
            return time.monotonic() + 600 * asleep.exists()

    monkeypatch.setattr("lensemble.operations.readiness.time", Clock)
    # Further tries are for the rare start in which Triton's stub hangs before it runs any Python.
    for _ in range(3):
        asleep.unlink(missing_ok=True)
        server = TritonServer(
            Settings(checkpoint=checkpoint),
            repository=folder,
            start_timeout_s=100,
            start_tries=1,
        )
        with pytest.raises(DeadlineExceededError, match=r"waiting for.* preprocess") as caught:
            server.start()
        assert_nothing_left(server)
        if 'preprocess/1/model.py", line 7 in sleep_for_ever' in str(caught.value):
            return
    pytest.fail(str(caught.value))


@pytest.mark.slow
def test_start_that_hangs_once_is_repeated(checkpoint, monkeypatch, caplog):
    pids = []

    def hang_once(process, **options):
        pids.append(process().pid)
        if len(pids) == 1:
            raise DeadlineExceededError("not ready in time")
        wait_until_ready(process, **options)

    monkeypatch.setattr("lensemble.operations.tritonserver.wait_until_ready", hang_once)
    with TritonServer(Settings(checkpoint=checkpoint)) as server, Client(server.grpc_url) as client:
        assert client.health()
        assert not psutil.pid_exists(pids[0])
        assert pids[1] == server.pid
    assert "the start failed and is repeated: not ready in time" in caplog.text
    assert_nothing_left(server)


def test_taken_port_is_refused_before_anything_starts(server, checkpoint):
    """Otherwise the server that listens there would answer for the one that could not start."""
    taken = int(server.http_url.rsplit(":", 1)[1])
    with pytest.raises(InvalidInputError, match=f"port: cannot listen on 127.0.0.1:{taken}"):
        TritonServer(Settings(checkpoint=checkpoint), http_port=taken).start()
    with pytest.raises(InvalidInputError, match="port: cannot listen"):
        TritonServer(Settings(checkpoint=checkpoint), http_port=99_999).start()


def test_bundled_server_listens_on_loopback_only(checkpoint):
    with pytest.raises(InvalidInputError, match="known security holes"):
        TritonServer(Settings(checkpoint=checkpoint), address="0.0.0.0")


def test_tritonserver_is_found_on_path_or_in_the_wheel(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match="there is no file"):
        find_tritonserver(tmp_path / "nowhere")
    bundled = find_tritonserver()
    assert bundled.stub is not None and bundled.binary.is_file()
    (tmp_path / "tritonserver").write_text("#!/bin/sh\n")
    (tmp_path / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tritonserver().binary == tmp_path / "tritonserver"
    assert find_tritonserver(bundled.binary).binary == bundled.binary.resolve()


def test_commands_against_a_server(server, tmp_path, capsys):
    from benchmarks.common.photos import read_photo

    photo = tmp_path / "moon.png"
    photo.write_bytes(read_photo("moon.png"))
    url = ["--url", server.http_url]
    assert main(["status", *url]) == 0
    assert "triton 2.51.0" in capsys.readouterr().out
    assert main(["search", "--image", str(photo), "-k", "2", *url]) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert first[:3] == ["1", "1.0000", "moon.png"]
    assert main(["search", "--image", str(photo), "--json", *url]) == 0
    assert capsys.readouterr().out.startswith('{"id": "moon.png", "score": ')
    assert main(["embed", "hello", "--dimensions", "64", *url]) == 0
    assert capsys.readouterr().out.count(",") == 63
    assert main(["embed", *url]) == 1
    assert capsys.readouterr().err.startswith("error: the item is empty")
    assert main(["status", "--url", "grpc://127.0.0.1:9", "--timeout", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_instance_counts_are_applied(checkpoint):
    settings = Settings(checkpoint=checkpoint, preprocess_instances=3, encoder_instances=2)
    with TritonServer(settings) as server, Client(server.grpc_url) as client:
        stubs = [process.cmdline()[-2] for process in psutil.Process(server.pid).children()]
        counts = Counter(name.rsplit("_", 2)[0] for name in stubs)
        assert counts == {"preprocess": 3, "qwen3_vl": 2, "faiss": 1, "store": 1}
        results = client.embed_many([Item(f"text {n}") for n in range(40)], batch_size=1)
        assert {len(vector) for vector in results} == {256}


@pytest.mark.slow
def test_port_that_is_taken_after_the_check(checkpoint, monkeypatch, caplog):
    """The other server reports its models as ready; ours must notice that they are not its own."""
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    with TritonServer(settings) as first:
        taken = urlsplit(first.http_url).port
        tries = []

        def ports_of_a_try(*arguments):
            tries.append(free_ports(*arguments))
            return [tries[0][0], taken, tries[0][2]] if len(tries) == 1 else tries[-1]

        monkeypatch.setattr("lensemble.operations.tritonserver.free_ports", ports_of_a_try)
        with TritonServer(settings) as second:
            assert (len(tries), second.http_url != first.http_url) == (2, True)
            for url in (second.grpc_url, second.http_url, first.http_url):
                with Client(url) as client:
                    client.embed("a red car")
    assert "already in use" in caplog.text
