"""One server goes, another comes, as behind a load balancer: no call fails, none is lost."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time

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

pytestmark = pytest.mark.e2e

CALLERS = 8
TEXTS = [f"a car, the {n}th" for n in range(5)]


class Up:
    """`lensemble up --gateway` on free ports; it serves on for a second when it is to stop."""

    def __init__(self, checkpoint):
        command = [sys.executable, "-m", "lensemble_cli.main", "up", "--gateway"]
        command += ["--checkpoint", str(checkpoint), "--dtype", "fp32", "--gateway-port", "0"]
        command += ["--drain", "1"]
        for port in ("grpc", "http", "metrics", "health"):
            command += [f"--{port}-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = [self.process.stdout.readline().strip() for _ in range(5)]
        self.ready = lines[3].removeprefix("health: ") + "/ready"
        self.url = lines[4].removeprefix("gateway: ")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)  # if it is there still
        assert self.process.wait(60) == 0
        self.process.stdout.close()


class Balancer:
    """Sends each request to the server of the moment, as an ingress does."""

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
        # A connection for each request: one that is kept may be closed just then.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=60, limits=limits) as self._http:
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
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()


class Callers:
    """Threads that embed all the time, each call once."""

    def __init__(self, url):
        self.url, self.answers, self.failures = url, [], []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        with httpx.Client(timeout=60) as http:
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
    answer = httpx.post(f"{url}/v1/embeddings", json={"input": text}, timeout=60)
    return answer.json()["data"][0]["embedding"]


def test_change_of_checkpoint_under_load(checkpoints):
    with Up(checkpoints[EMBEDDING]) as old, Balancer(old.url) as balancer:
        before = {text: embed(old.url, text) for text in TEXTS}
        with Callers(balancer.url) as callers:
            time.sleep(1)
            with Up(checkpoints[MEAN]) as new:
                assert httpx.get(new.ready).status_code == 200
                after = {text: embed(new.url, text) for text in TEXTS}
                while len(callers.answers) < 100:
                    time.sleep(0.05)
                balancer.target = new.url
                old.process.send_signal(signal.SIGTERM)  # at once, with calls under way
                time.sleep(0.3)
                answer = httpx.get(old.ready)
                assert (answer.status_code, answer.json()["reason"]) == (503, "stopping")
                assert old.process.wait(60) == 0
                count = len(callers.answers)
                while len(callers.answers) < count + 100:
                    time.sleep(0.05)
                callers.__exit__()
    assert callers.failures == []
    seen = {"before": 0, "after": 0}
    for text, vector in callers.answers:
        near = {
            name: np.allclose(vector, expected[text], atol=1e-4)
            for name, expected in (("before", before), ("after", after))
        }
        assert sum(near.values()) == 1
        seen["before"] += near["before"]
        seen["after"] += near["after"]
    assert min(seen.values()) >= 50


def test_change_of_index_under_load(checkpoint, tmp_path):
    """A whole other index is put in the place of the one that is searched."""
    folder, profile = tmp_path / "index", Checkpoint.open(checkpoint).profile

    def put(name):
        vectors = np.eye(100, profile.dimension, dtype=np.float32)
        ids = [f"{name} {n}" for n in range(len(vectors))]
        write_index(folder, profile, vectors, ids, ["{}"] * len(ids))

    put("old")
    found, failures, ended = [], [], threading.Event()

    def search(url):
        with Client(url, retry=Retry(tries=1)) as client:
            while not ended.is_set():
                try:
                    hits = client.search("a car", top_k=5)
                    found.append({hit.id.split()[0] for hit in hits})
                except LensembleError as error:
                    failures.append(error)

    with TritonServer(Settings(checkpoint=checkpoint, index=folder, dtype="fp32")) as server:
        threads = [threading.Thread(target=search, args=(server.grpc_url,)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for name in ("new", "newer"):
            count = len(found)
            put(name)
            while {name} not in found[count:] or len(found) < count + 100:
                assert not failures
                time.sleep(0.02)
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert all(len(one) == 1 for one in found)  # never some of one and some of the other


def test_calls_under_way_finish_when_it_is_stopped(checkpoint):
    """SIGTERM to all of it: what was begun is answered, and then it is gone."""
    with Up(checkpoint) as up:
        processes = [psutil.Process(up.process.pid)]
        processes += processes[0].children(recursive=True)
        results = []

        def ask(number):
            with httpx.Client(timeout=60) as http:
                opened = time.monotonic()
                body = {"input": [f"{number} {n} " + "word " * 200 for n in range(32)]}
                answer = http.post(f"{up.url}/v1/embeddings", json=body)
                results.append((opened, answer.status_code, len(answer.json().get("data", ()))))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        stopped = time.monotonic()
        up.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert up.process.wait(60) == 0
    assert len(results) == CALLERS
    for opened, status, count in results:
        assert opened < stopped
        assert (status, count) == (200, 32)
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive
