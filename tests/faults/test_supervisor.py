"""A supervised server serves again when a process dies or hangs; clients that retry get answers."""

import signal
import threading
from collections import Counter

import numpy as np
import psutil
import pytest

from lensemble.operations.model_repository import write_repository
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.settings import Settings
from lensemble_client import Client, Retry
from lensemble_contract.errors import LensembleError
from tests.faults.harness import note_on_failure
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e

RETRY = Retry(tries=1000, first_wait_s=0.2, max_wait_s=0.5)
VICTIMS = ("preprocess", "qwen3_vl", "faiss", "store", "tritonserver")
HANGS = """

class Hangs(PreprocessStage):
    patience_s = 1.0

    def run(self, rows):
        if any(item.text == "hang" for item in rows):
            import time
            time.sleep(3600)
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Hangs, args)
"""


def process_of(server: TritonServer, name: str) -> psutil.Process:
    if name == "tritonserver":
        return psutil.Process(server.pid)
    return psutil.Process(
        next(each.pid for each in read_heartbeats(server.heartbeats) if each.model == name)
    )


class Callers:
    """Threads that embed and search all the time, with retries.

    Attributes:
        failed: errors of calls that failed in spite of their retries.
        answered: number of answered calls.
    """

    def __init__(self, url: str, expected: np.ndarray) -> None:
        self.failed: list[LensembleError] = []
        self.answered = 0
        self._url, self._expected, self._ended = url, expected, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def _call(self):
        with Client(self._url, timeout_s=DEADLINE_S, retry=RETRY) as client:
            while not self._ended.is_set():
                try:
                    assert np.allclose(client.embed("a red car"), self._expected, atol=1e-5)
                    client.search("a red car", top_k=1)
                    self.answered += 1
                except LensembleError as error:
                    self.failed.append(error)


@pytest.mark.parametrize(
    "faults",
    [
        [("qwen3_vl", signal.SIGKILL)],
        pytest.param(
            [*((name, signal.SIGKILL) for name in VICTIMS), ("qwen3_vl", signal.SIGSTOP)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one", "all"],
)
def test_server_serves_again_after_a_process_was_killed_or_stopped(checkpoint, tmp_path, faults):
    settings = Settings(checkpoint=checkpoint, index=tmp_path / "index", dtype="fp32", writes="on")
    with Supervisor(TritonServer(settings)) as watching:
        server = watching.server
        with Client(server.grpc_url, retry=RETRY, timeout_s=DEADLINE_S) as client:
            client.ingest("car", "a red car", document={"made": 1})
            expected = client.embed("a red car")
            with Callers(server.grpc_url, expected) as callers:
                for turn, (name, number) in enumerate(faults):
                    with note_on_failure(turn=turn, name=name, state=watching.state):
                        process_of(server, name).send_signal(number)
                        until(lambda turn=turn: sum(watching.state.restarts.values()) > turn)
                        until(lambda: watching.state.ready)
                        before = callers.answered
                        until(lambda before=before: callers.answered > before + 2)
            assert callers.failed == []
            assert client.get("car").document == {"made": 1}
        reasons = ["died" if number == signal.SIGKILL else "stopped" for _, number in faults]
        assert watching.state.restarts == Counter(reasons)
    assert not server.log_file.exists()


def test_model_that_hangs_in_a_call_is_replaced(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    repository = write_repository(settings, tmp_path / "models")
    model = repository / "preprocess" / "1" / "model.py"
    source = "from lensemble.stages.preprocess import PreprocessStage\n" + model.read_text() + HANGS
    model.write_text(source.replace("from __future__ import annotations\n", ""))
    with Supervisor(TritonServer(settings, repository=repository)) as watching:
        url = watching.server.grpc_url
        with Client(url, timeout_s=DEADLINE_S, retry=Retry(tries=1)) as client:
            with pytest.raises(LensembleError):
                client.embed("hang")
            until(lambda: "hangs" in watching.state.restarts and watching.state.ready)
        with Client(url, retry=RETRY, timeout_s=DEADLINE_S) as client:
            assert client.embed("x").shape == (256,)
    assert not watching.server.log_file.exists()
