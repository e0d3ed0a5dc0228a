"""The server starts, says why it cannot, and leaves nothing behind."""

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
from lensemble.operations.tritonserver import TritonServer, free_ports
from lensemble.settings import Settings
from lensemble_cli.main import main
from lensemble_client import Client, DeadlineExceededError, InternalError, InvalidInputError, Item

pytestmark = pytest.mark.e2e


class Family:
    """A process with its children, and the shared memory of the server among them."""

    def __init__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self.processes = [process, *process.children(recursive=True)]
        (self.server,) = [p for p in self.processes if p.name() == "tritonserver"]
        (argument,) = [a for a in self.server.cmdline() if "shm-region-prefix-name" in a]
        self.prefix = argument.split("=")[-1]

    def segments(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.prefix}*"))


def runs(process: psutil.Process) -> bool:
    try:  # a zombie has ended; init will notice
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(family: Family) -> None:
    """At once: a model's process that finds out by itself that its server died takes seconds."""
    deadline = time.monotonic() + 1
    while alive := [process for process in family.processes if runs(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)
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
    server.stop()  # again does no harm


def test_killed_server_leaves_nothing_either(checkpoint):
    server = TritonServer(Settings(checkpoint=checkpoint)).start()
    family = Family(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    server.stop()
    assert_gone(family)


def test_program_that_ends_without_stopping_its_server_leaves_nothing(checkpoint):
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
        _, errors = program.communicate("go on\n", timeout=40)
        assert "oops" in errors
        assert_gone(family)
    finally:
        program.kill()


def test_server_that_hangs_is_killed_with_its_models(checkpoint, monkeypatch):
    monkeypatch.setattr("lensemble.operations.tritonserver.STOP_TIMEOUT_S", 0.5)
    server = TritonServer(Settings(checkpoint=checkpoint)).start()
    family = Family(server.pid)
    for process in family.processes:
        process.suspend()
    server.stop()
    assert_gone(family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
        _, errors = up.communicate(timeout=30)
        assert up.returncode == 0, errors
        assert "stopping" in errors
        assert_gone(family)
    finally:
        up.kill()


def test_second_signal_does_not_cut_the_first_ones_work_short():
    script = """
import os, signal, time
from lensemble.operations.tritonserver import stop_on_signals
try:
    with stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            print("stopped in order")
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["stopped in order", "True", ""], done.stderr


def test_up_starts_a_server_that_died_again(checkpoint):
    command = [sys.executable, "-m", "lensemble_cli.main", "up", "--checkpoint", str(checkpoint)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command += ["--health-port", "0", "--dtype", "fp32"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        grpc, _, _, health = (up.stdout.readline().strip() for _ in range(4))
        ready = health.removeprefix("health: ") + "/ready"
        assert httpx.get(ready).json()["status"] == "ok"
        first = Family(up.pid)
        first.server.kill()
        until(lambda: httpx.get(ready).json()["restarts"] == {"died": 1})
        until(lambda: httpx.get(ready).status_code == 200)
        with Client(grpc) as client:
            assert client.embed("x").shape
        second = Family(up.pid)
        assert second.server.pid != first.server.pid
        up.send_signal(signal.SIGTERM)
        _, errors = up.communicate(timeout=30)
        assert up.returncode == 0, errors
        assert "tritonserver (process" in errors
        assert "serving again after" in errors
        for family in (first, second):
            assert_gone(family)
    finally:
        up.kill()


def until(true, patience_s=60):
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_early_death_shows_the_reason(checkpoints, index_folder, tmp_path):
    for settings, reason in (
        (Settings(checkpoint=tmp_path), "not a serving checkpoint"),
        (
            Settings(checkpoint=checkpoints["qwen3-vl-mean"], index=index_folder),
            "they cannot be compared",
        ),
    ):
        began = time.monotonic()
        server = TritonServer(settings)
        with pytest.raises(InternalError, match="before it was ready") as caught:
            server.start()
        assert reason in str(caught.value)
        assert time.monotonic() - began < 60
        assert_nothing_left(server)


def test_start_that_takes_too_long_is_given_up(checkpoint):
    server = TritonServer(Settings(checkpoint=checkpoint), start_timeout_s=0.5, start_tries=1)
    with pytest.raises(DeadlineExceededError, match=r"not ready within 0.5 s"):
        server.start()
    assert_nothing_left(server)


def test_model_that_hangs_at_the_start_says_where(checkpoint, tmp_path):
    folder = write_repository(Settings(checkpoint=checkpoint), tmp_path / "models")
    (folder / "preprocess/1/model.py").write_text(
        "import time\n"
        "from lensemble.stages import python_backend\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        self.asleep()\n"
        "    def asleep(self):\n"
        "        time.sleep(600)\n"
    )
    # The sleep is reached in seconds on an idle machine; a busy one, or the rare start in
    # which Triton's own stub hangs before it runs any Python, gets longer ones.
    for timeout_s in (15, 45, 90):
        server = TritonServer(
            Settings(checkpoint=checkpoint),
            repository=folder,
            start_timeout_s=timeout_s,
            start_tries=1,
        )
        with pytest.raises(DeadlineExceededError, match=r"waiting for.* preprocess") as caught:
            server.start()
        assert_nothing_left(server)
        if 'preprocess/1/model.py", line 7 in asleep' in str(caught.value):
            return
    pytest.fail(str(caught.value))


def test_start_that_hangs_once_is_tried_again(checkpoint, monkeypatch, caplog):
    wait, waited = TritonServer._wait_until_ready, []

    def hang_once(server):
        waited.append(server.pid)
        if len(waited) == 1:
            raise DeadlineExceededError("not ready in time")
        wait(server)

    monkeypatch.setattr(TritonServer, "_wait_until_ready", hang_once)
    with TritonServer(Settings(checkpoint=checkpoint)) as server, Client(server.grpc_url) as client:
        assert client.health()
        assert not psutil.pid_exists(waited[0])
        assert waited[1] == server.pid
    assert "starting once more: not ready in time" in caplog.text
    assert_nothing_left(server)


def test_taken_port_is_refused_before_anything_starts(server, checkpoint):
    """Otherwise the server that listens there answers for the one that could not start."""
    taken = int(server.http_url.rsplit(":", 1)[1])
    with pytest.raises(InvalidInputError, match=f"port: cannot listen on 127.0.0.1:{taken}"):
        TritonServer(Settings(checkpoint=checkpoint), http_port=taken).start()
    with pytest.raises(InvalidInputError, match="port: cannot listen"):
        TritonServer(Settings(checkpoint=checkpoint), http_port=99_999).start()


def test_bundled_server_listens_on_loopback_only(checkpoint):
    with pytest.raises(InvalidInputError, match="known security holes"):
        TritonServer(Settings(checkpoint=checkpoint), address="0.0.0.0")


def test_server_is_looked_for_where_it_may_be(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match="no file"):
        find_tritonserver(tmp_path / "nowhere")
    found = find_tritonserver()
    assert found.stub is not None and found.binary.is_file()
    (tmp_path / "tritonserver").write_text("#!/bin/sh\n")
    (tmp_path / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tritonserver().binary == tmp_path / "tritonserver"
    assert find_tritonserver(found.binary).binary == found.binary


def test_commands_of_the_command_line(server, tmp_path, capsys):
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


def test_models_have_as_many_processes_as_they_are_told(checkpoint):
    settings = Settings(checkpoint=checkpoint, preprocess_instances=3, encoder_instances=2)
    with TritonServer(settings) as server, Client(server.grpc_url) as client:
        stubs = [process.cmdline()[-2] for process in psutil.Process(server.pid).children()]
        found = Counter(name.rsplit("_", 2)[0] for name in stubs)
        assert found == {"preprocess": 3, "qwen3_vl": 2, "faiss": 1, "store": 1}
        results = client.embed_many([Item(f"text {n}") for n in range(40)], batch_size=1)
        assert {len(vector) for vector in results} == {256}


def test_a_port_that_was_taken_after_the_look(checkpoint, monkeypatch, caplog):
    """The other server calls its models ready on that port; ours is not to believe it is meant."""
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    with TritonServer(settings) as first:
        taken = urlsplit(first.http_url).port
        looks = []

        def look(*given):
            looks.append(free_ports(*given))
            return [looks[0][0], taken, looks[0][2]] if len(looks) == 1 else looks[-1]

        monkeypatch.setattr("lensemble.operations.tritonserver.free_ports", look)
        with TritonServer(settings) as second:
            assert (len(looks), second.http_url != first.http_url) == (2, True)
            for url in (second.grpc_url, second.http_url, first.http_url):
                with Client(url) as client:
                    client.embed("a red car")
    assert "already in use" in caplog.text
