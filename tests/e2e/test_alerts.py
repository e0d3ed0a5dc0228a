"""Debian's Prometheus scrapes a live service: the dashboard has data, every alert fires."""

import math
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import yaml

from benchmarks.serving.prometheus_server import DEPLOY, Prometheus, dashboard, installed, quick
from lensemble.checkpoint import Checkpoint
from lensemble.gateway.access import keys
from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.operations.health_routes import HealthServer
from lensemble.operations.model_repository import write_repository
from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.heartbeat import read_heartbeats
from lensemble.settings import Settings
from lensemble_client import Client, DeadlineExceededError, Retry, StorageError
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not installed(), reason="Debian's prometheus is not installed"),
]

PATIENCE_S = 60
SLOW_S = 4.0
ONCE = Retry(tries=1)
FAULTY = """

class Faulty(EncodeStage):
    def run(self, rows):
        import time
        from pathlib import Path
        fault = Path({flag!r})
        said = fault.read_text() if fault.exists() else ""
        if said == "broken":
            raise RuntimeError("made to fail")
        if said == "slow":
            time.sleep({slow})
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Faulty, args)
"""
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
seen: set[str] = set()
"""Alerts that a test has seen firing."""


class Service:
    """A supervised server with a gateway, and the Prometheus that looks at them."""

    def __init__(self, folder, checkpoint):
        self.flag = folder / "fault"
        self.profile = Checkpoint.open(checkpoint).profile
        self.settings = Settings(
            checkpoint=checkpoint,
            index=poor_index(folder / "index", self.profile),
            dtype="fp32",
            writes="on",
            compact_rows=20,
            max_wait_s=0.01,
        )
        repository = write_repository(self.settings, folder / "models")
        model = repository / "qwen3_vl" / "1" / "model.py"
        model.write_text(model.read_text() + FAULTY.format(flag=str(self.flag), slow=SLOW_S))
        self.watching = Supervisor(TritonServer(self.settings, repository=repository))
        self.folder = folder

    def start_gateway(self, port=0):
        path = self.folder / "keys.json"
        if not path.exists():
            self.key = keys.add(path, "somebody", "read")
            (self.folder / "metrics.key").write_text(keys.add(path, "prometheus", "metrics"))
        server = self.watching.server
        settings = GatewaySettings(
            triton=server.grpc_url, metrics=server.metrics_url, keys=path, port=port
        )
        return GatewayServer(settings).start()

    def ask(self, text):
        """Through the gateway."""
        return httpx.post(
            f"{self.gateway.url}/v1/embeddings",
            json={"model": "native", "input": text},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
        ).status_code

    def client(self, **options):
        return Client(self.watching.server.grpc_url, **options)

    def process(self, model):
        server = self.watching.server
        beats = read_heartbeats(server.heartbeats)
        return psutil.Process(next(beat.pid for beat in beats if beat.model == model))

    def until_ready(self):
        end = time.monotonic() + PATIENCE_S
        while not self.watching.state.ready:
            assert time.monotonic() < end, self.watching.state.reason
            time.sleep(0.1)


def poor_index(folder, profile):
    """Its recall is bad: of many cells that lie at random, one is looked into."""
    vectors = np.random.default_rng(0).standard_normal((3000, profile.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    plan = IndexPlan(kind="ivf", parameters={"nlist": 64, "nprobe": 1})
    ids = [str(n) for n in range(len(vectors))]
    write_index(folder, profile, vectors, ids, ["{}"] * len(ids), plan=plan)
    return folder


@pytest.fixture(scope="module")
def service(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    made = Service(folder, checkpoint)
    with made.watching as watching, HealthServer(watching.state) as health:
        made.gateway = made.start_gateway()
        targets = {
            "triton": urlsplit(watching.server.metrics_url).netloc,
            "supervisor": urlsplit(health.url).netloc,
            "gateway": urlsplit(made.gateway.url).netloc,
        }
        try:
            with Prometheus(folder / "prometheus", targets, folder / "metrics.key") as made.watcher:
                yield made
        finally:
            made.gateway.stop()


def fires(service, name, act=lambda: None):
    """Does something again and again until the alert fires."""
    assert name in ALERTS
    end = time.monotonic() + PATIENCE_S
    while name not in service.watcher.firing():
        assert time.monotonic() < end, f"{name} does not fire: {service.watcher.firing()}"
        act()
        time.sleep(0.2)
    seen.add(name)


@pytest.fixture
def fault(service):
    """Puts a fault into the encoder for the length of a test."""
    yield service.flag.write_text
    service.flag.unlink(missing_ok=True)


def test_dashboard_has_data_and_only_the_poor_index_alarms(service):
    with service.client() as client:
        for n in range(40):
            client.ingest(f"a{n % 4}", f"a red car {n}", document={})
            client.search("car")
            assert service.ask(f"car {n}") == 200
            time.sleep(0.05)
        assert service.ask("") == 400
        client.status()  # brings metrics up to date
    fires(service, "LensembleRecall")
    end = time.monotonic() + PATIENCE_S
    empty = dict(dashboard())
    while empty and time.monotonic() < end:
        service.ask("x")
        empty = {
            title: lacking
            for title, expressions in empty.items()
            if (lacking := [one for one in expressions if not numbers(service, one[0])])
        }
    assert not empty
    assert service.watcher.firing() == {"LensembleRecall"}


def numbers(service, expression):
    values = [float(one["value"][1]) for one in service.watcher.query(quick(expression))]
    return values and all(map(math.isfinite, values))


def test_more_than_can_be_done(service):
    def flood():
        def ask(number):
            try:
                with service.client(retry=ONCE) as client:
                    client.embed(f"{number}")
            except LensembleError:
                pass

        with ThreadPoolExecutor(100) as pool:
            list(pool.map(ask, range(300)))

    fires(service, "LensembleOverloaded", flood)


def test_too_late(service):
    rows = {"text": np.array([[b"x"]], np.object_)}

    def late():
        with service.client() as client, pytest.raises(DeadlineExceededError):
            client.infer(contract.EMBED, rows, {"timeout_ms": 0.001}, 30)

    fires(service, "LensembleTimeouts", late)


def test_model_that_fails(service, fault):
    fault("broken")
    statuses = set()
    fires(service, "LensembleFails", lambda: statuses.add(service.ask("x")))
    fires(service, "LensembleGatewayFails", lambda: statuses.add(service.ask("x")))
    assert statuses == {500}


def test_model_that_is_slow(service, fault):
    fault("slow")
    with ThreadPoolExecutor(8) as pool:

        def ask():
            list(pool.map(service.ask, "abcd"))  # the later ones wait for the first

        fires(service, "LensembleQueues", ask)
        fires(service, "LensembleGatewaySlow", ask)


def test_disk_that_takes_no_more(service):
    process = service.process("store")
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (0, before[1]))

    def write():
        with service.client(retry=ONCE) as client, pytest.raises(StorageError):
            client.ingest("b", "a blue car", document={})

    try:
        fires(service, "LensembleStorage", write)
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, before)
    with service.client() as client:
        client.ingest("b", "a blue car", document={})
        assert client.get("b").id == "b"


def test_index_that_is_written_faster_than_compacted(service):
    number = 0

    def write():
        nonlocal number
        vectors = np.eye(200, service.profile.dimension, dtype=np.float32)
        ids = [f"w{number + n}" for n in range(len(vectors))]
        number += len(ids)
        with service.client() as client:
            client.upsert(ids, vectors, profile=service.profile.hash)

    fires(service, "LensembleIndexBehind", write)


def test_process_that_dies(service):
    killed = -math.inf

    def kill():
        # Once more if the server was back before Prometheus had looked often enough.
        nonlocal killed
        if time.monotonic() - killed > PATIENCE_S / 3:
            service.until_ready()
            service.process("qwen3_vl").send_signal(signal.SIGKILL)
            killed = time.monotonic()

    fires(service, "LensembleDown", kill)
    fires(service, "LensembleRestarted")
    service.until_ready()


def test_gateway_that_is_gone(service):
    port = urlsplit(service.gateway.url).port
    service.gateway.stop()
    try:
        fires(service, "LensembleUnreachable")
    finally:
        service.gateway = service.start_gateway(port)


def test_every_alert_was_seen():
    assert seen == ALERTS
