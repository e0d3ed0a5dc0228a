"""A server whose path, environment, parent or end is unusual."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, NotReadyError, Retry
from lensemble_contract.errors import LensembleError
from tests.e2e.test_lifecycle import Family, assert_gone
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e

PORTS = ("grpc", "http", "metrics", "health", "gateway")


class Up:
    """A running `lensemble up --gateway`; a context manager that kills it.

    Attributes:
        process: the command.
        urls: the URLs that it has printed: gRPC, HTTP, metrics, health, gateway.
    """

    def __init__(self, *options, folder=None, **environment):
        command = [sys.executable, "-m", "lensemble_cli.main", "up", "--dtype", "fp32", *options]
        command += ["--gateway", *(part for name in PORTS for part in (f"--{name}-port", "0"))]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lines = [self.process.stdout.readline().strip() for _ in PORTS]
        self.urls = [line.rpartition(": ")[2] for line in lines]

    def __enter__(self):
        assert all(self.urls)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def embed_through(url):
    """Status of the gateway's answer, without a proxy."""
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as http:
        return http.post(f"{url}/v1/embeddings", json={"input": "x"}).status_code


def test_paths_may_have_any_characters_and_a_proxy_is_not_asked(
    checkpoint, index_folder, tmp_path, monkeypatch
):
    """The proxy's port is closed, so every call that asks the proxy fails."""
    home = tmp_path / "José ñandú 用户"
    shutil.copytree(checkpoint, home / "checkpöint")
    shutil.copytree(index_folder, home / "indéx")
    (home / "tmp").mkdir()
    proxy = "http://127.0.0.1:9"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    options = ["--checkpoint", str(home / "checkpöint"), "--index", "indéx", "--writes"]
    surroundings = {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "LENSEMBLE_DESCRIBE_PROMPT": "Décris",
    }
    with Up(*options, folder=home, **surroundings) as up:
        for url in up.urls[:2]:
            with Client(url, timeout_s=DEADLINE_S) as client:
                client.ingest("ä", "a red car", document={"größe": "用户"})
                assert client.search("a red car", top_k=1)[0].document == {"größe": "用户"}
        assert embed_through(up.urls[-1]) == 200


def test_killed_command_takes_its_server_along(checkpoint):
    with Up("--checkpoint", str(checkpoint)) as up:
        assert embed_through(up.urls[-1]) == 200
        family = Family(up.process.pid)
        assert len(family.processes) >= 6, "the command, tritonserver, its models, the gateway"
        (argument,) = [each for each in family.server.cmdline() if "model-repository=" in each]
        folder = os.path.dirname(argument.partition("=")[2])  # noqa: PTH120
        up.process.send_signal(signal.SIGKILL)
        up.process.wait(DEADLINE_S)
        until(lambda: not os.path.exists(folder), "the removal of its folder")  # noqa: PTH110
        until(lambda: not family.segments(), "the removal of its shared memory")
        assert_gone(family)


def test_calls_to_a_server_that_stops_are_not_answered_as_unknown_model(checkpoint):
    """Otherwise callers would give up, although the server may be back in seconds."""
    errors: list[LensembleError] = []
    ended, calling = threading.Event(), threading.Event()

    def call(url):
        with Client(url, timeout_s=DEADLINE_S, retry=Retry(tries=1)) as client:
            while not ended.is_set():
                try:
                    client.embed("x")
                    calling.set()
                except LensembleError as error:
                    errors.append(error)

    with TritonServer(Settings(checkpoint=checkpoint, dtype="fp32")) as server:
        threads = [
            threading.Thread(target=call, args=(url,))
            for url in (server.grpc_url, server.http_url) * 2
        ]
        for thread in threads:
            thread.start()
        assert calling.wait(DEADLINE_S)
    ended.set()
    for thread in threads:
        thread.join()
    assert errors
    assert {type(error) for error in errors} == {NotReadyError}, {str(e) for e in errors}
