"""A server or an index is replaced while it is used: no request fails, and none is lost."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from lensemble.checkpoint import Checkpoint
from lensemble.index.maintenance.create import write_index
from lensemble.operations.ports import free_port
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, LensembleError, Retry
from tests.conftest import EMBEDDING, MEAN
from tests.waiting import DEADLINE_S, until

pytestmark = pytest.mark.e2e

CALLERS = 8
TEXTS = [f"a car, the {n}th" for n in range(5)]


class Up:
    """`lensemble up --gateway` on free ports. After a signal to stop it serves for a while longer.

    Args:
        checkpoint: folder of the checkpoint.
        drain_s: how long it serves after the signal, in seconds.
    """

    def __init__(self, checkpoint, drain_s=1):
        command = [sys.executable, "-m", "lensemble_cli.main", "up", "--gateway"]
        command += ["--checkpoint", str(checkpoint), "--dtype", "fp32", "--gateway-port", "0"]
        command += ["--drain", str(drain_s)]
        for port in ("grpc", "http", "metrics", "health"):
            command += [f"--{port}-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = [self.process.stdout.readline().strip() for _ in range(5)]
        self.ready_url = lines[3].removeprefix("health: ") + "/ready"
        self.url = lines[4].removeprefix("gateway: ")

    def stopping(self):
        """The response of `/ready` once it is 503, else None."""
        response = httpx.get(self.ready_url, timeout=DEADLINE_S)
        return response if response.status_code == 503 else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0
        self.process.stdout.close()


class Balancer:
    """Forwards each request to the current server, as an ingress does."""

    def __init__(self, target):
        self.target = target
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        app = Starlette(
            routes=[Route("/v1/embeddings", self._pass_on, methods=["POST"])],
            lifespan=self._lifespan,
        )
        config = uvicorn.Config(app, port=self._port, log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))

    @contextlib.asynccontextmanager
    async def _lifespan(self, _):
        # Each request has its own connection: the old server may close a kept one at any time.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits) as self._http:
            yield

    async def _pass_on(self, request):
        answer = await self._http.post(
            f"{self.target}/v1/embeddings",
            content=await request.body(),
            headers={"content-type": "application/json"},
        )
        return Response(answer.content, answer.status_code, media_type="application/json")

    def __enter__(self):
        self._thread.start()
        until(lambda: self._server.started)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()


class Callers:
    """Threads that embed all the time, without retries."""

    def __init__(self, url):
        self.url, self.answers, self.failures = url, [], []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        with httpx.Client(timeout=DEADLINE_S) as http:
            while not self._ended.is_set():
                number += 1
                text = TEXTS[number % len(TEXTS)]
                try:
                    answer = http.post(f"{self.url}/v1/embeddings", json={"input": text})
                    answer.raise_for_status()
                    self.answers.append((text, answer.json()["data"][0]["embedding"]))
                except httpx.HTTPError as error:
                    self.failures.append(error)


def embed(url, text):
    answer = httpx.post(f"{url}/v1/embeddings", json={"input": text}, timeout=DEADLINE_S)
    return answer.json()["data"][0]["embedding"]


@pytest.mark.slow
def test_change_of_checkpoint_under_load(checkpoints):
    # The old server must serve until the test has seen that it reports that it is stopping.
    with Up(checkpoints[EMBEDDING], drain_s=15) as old, Balancer(old.url) as balancer:
        before = {text: embed(old.url, text) for text in TEXTS}
        with Callers(balancer.url) as callers:
            until(lambda: callers.answers)
            with Up(checkpoints[MEAN]) as new:
                assert httpx.get(new.ready_url, timeout=DEADLINE_S).status_code == 200
                after = {text: embed(new.url, text) for text in TEXTS}
                until(lambda: len(callers.answers) >= 100)
                balancer.target = new.url
                old.process.send_signal(signal.SIGTERM)  # at once, with requests in flight
                answer = until(old.stopping, "the old server's report that it is stopping")
                assert answer.json()["reason"] == "stopping"
                assert old.process.wait(DEADLINE_S) == 0
                count = len(callers.answers)
                until(lambda: len(callers.answers) >= count + 100)
                callers.stop()
    assert callers.failures == []
    counts = {"before": 0, "after": 0}
    for text, vector in callers.answers:
        matches = {
            name: np.allclose(vector, expected[text], atol=1e-4)
            for name, expected in (("before", before), ("after", after))
        }
        assert sum(matches.values()) == 1
        counts["before"] += matches["before"]
        counts["after"] += matches["after"]
    assert min(counts.values()) >= 50


def test_change_of_index_under_load(checkpoint, tmp_path):
    """Another index is put in place of the one that is searched."""
    folder, profile = tmp_path / "index", Checkpoint.open(checkpoint).profile

    def put(name):
        vectors = np.eye(100, profile.dimension, dtype=np.float32)
        ids = [f"{name} {n}" for n in range(len(vectors))]
        write_index(folder, profile, vectors, ids, ["{}"] * len(ids))

    put("old")
    sources, failures, ended = [], [], threading.Event()

    def search(url):
        with Client(url, retry=Retry(tries=1)) as client:
            while not ended.is_set():
                try:
                    hits = client.search("a car", top_k=5)
                    sources.append({hit.id.split()[0] for hit in hits})
                except LensembleError as error:
                    failures.append(error)

    with TritonServer(Settings(checkpoint=checkpoint, index=folder, dtype="fp32")) as server:
        threads = [threading.Thread(target=search, args=(server.grpc_url,)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for name in ("new", "newer"):
            count = len(sources)
            put(name)

            def is_searched(name=name, count=count):
                since = sources[count:]
                return ({name} in since and len(since) >= 100) or failures

            until(is_searched, f"100 searches, some of them of the index {name!r}")
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(len(each) == 1 for each in sources), "no search has hits of two indexes"


def embeddings_received(up):
    """Number of requests for embeddings that the gateway is serving or has answered."""
    text = httpx.get(f"{up.url}/metrics", timeout=DEADLINE_S).text
    (in_flight,) = re.findall(r"^lensemble_gateway_in_flight (\S+)$", text, re.MULTILINE)
    answered = re.findall(
        r'^lensemble_gateway_requests_total\{route="/v1/embeddings".*\} (\S+)$', text, re.MULTILINE
    )
    return float(in_flight) - 1 + sum(map(float, answered))  # 1 is the request for metrics


def test_requests_in_flight_finish_when_the_service_is_stopped(checkpoint):
    with Up(checkpoint) as up:
        processes = [psutil.Process(up.process.pid)]
        processes += processes[0].children(recursive=True)

        def embed_many(number):
            body = {"input": [f"{number} {n} " + "word " * 200 for n in range(32)]}
            answer = httpx.post(f"{up.url}/v1/embeddings", json=body, timeout=DEADLINE_S)
            return answer.status_code, len(answer.json().get("data", ()))

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = [pool.submit(embed_many, number) for number in range(CALLERS)]
            until(lambda: embeddings_received(up) == CALLERS)
            up.process.send_signal(signal.SIGTERM)
            results = [answer.result() for answer in answers]
        assert up.process.wait(DEADLINE_S) == 0
    assert results == [(200, 32)] * CALLERS
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
    assert not alive
