"""Prometheus (Debian's package) reads a live service: the dashboard has data, every alert fires."""

import math
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import yaml

from benchmarks.serving.prometheus_server import (
    DEPLOY,
    Prometheus,
    dashboard,
    installed,
    with_short_windows,
)
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
from tests.waiting import DEADLINE_S, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not installed(), reason="Debian's prometheus is not installed"),
]

SLOW_S = 4.0
ONCE = Retry(tries=1)
# The encoder fails or is slow, depending on the content of a file.
FAULTY = """

class Faulty(EncodeStage):
    def run(self, rows):
        import time
        from pathlib import Path
        fault = Path({flag!r})
        kind = fault.read_text() if fault.exists() else ""
        if kind == "broken":
            raise RuntimeError("made to fail")
        if kind == "slow":
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
# Alerts that a test has seen firing.
seen: set[str] = set()


class Service:
    """A supervised server with a gateway, and a Prometheus that reads their metrics."""

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
        """Embeds a text through the gateway; returns the status."""
        return httpx.post(
            f"{self.gateway.url}/v1/embeddings",
            json={"model": "native", "input": text},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=DEADLINE_S,
        ).status_code

    def client(self, **options):
        return Client(self.watching.server.grpc_url, **options)

    def process(self, model):
        server = self.watching.server
        heartbeats = read_heartbeats(server.heartbeats)
        return psutil.Process(next(each.pid for each in heartbeats if each.model == model))

    def until_ready(self):
        until(lambda: self.watching.state.ready)


def poor_index(folder, profile):
    """Writes an index with a low recall: a search looks into one of many random cells."""
    vectors = np.random.default_rng(0).standard_normal((3000, profile.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    plan = IndexPlan(kind="ivf", parameters={"nlist": 64, "nprobe": 1})
    ids = [str(n) for n in range(len(vectors))]
    write_index(folder, profile, vectors, ids, ["{}"] * len(ids), plan=plan)
    return folder


@pytest.fixture(scope="module")
def service(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, checkpoint)
    with service.watching as watching, HealthServer(watching.state) as health:
        service.gateway = service.start_gateway()
        targets = {
            "triton": urlsplit(watching.server.metrics_url).netloc,
            "supervisor": urlsplit(health.url).netloc,
            "gateway": urlsplit(service.gateway.url).netloc,
        }
        try:
            with Prometheus(folder / "prometheus", targets, folder / "metrics.key") as watcher:
                service.watcher = watcher
                yield service
        finally:
            service.gateway.stop()


def until_fires(service, name, act=lambda: None):
    """Does something again and again until the alert fires."""
    assert name in ALERTS

    def fires_after_act():
        act()
        return name in service.watcher.firing()

    until(fires_after_act, f"the alert {name}")
    seen.add(name)


@pytest.fixture
def fault(service):
    """Sets the encoder's fault for the duration of a test."""
    yield service.flag.write_text
    service.flag.unlink(missing_ok=True)


def test_dashboard_has_data_and_only_the_poor_index_raises_an_alert(service):
    with service.client() as client:
        for n in range(40):
            client.ingest(f"a{n % 4}", f"a red car {n}", document={})
            client.search("car")
            assert service.ask(f"car {n}") == 200
        assert service.ask("") == 400
        client.status()  # updates the metrics
    until_fires(service, "LensembleRecall")

    def panels_without_data():
        service.ask("x")
        return [
            title
            for title, expressions in dashboard().items()
            if not all(has_numbers(service, expression) for expression, *_ in expressions)
        ]

    until(lambda: not panels_without_data(), "data in all panels")
    assert service.watcher.firing() == {"LensembleRecall"}


def has_numbers(service, expression):
    values = [
        float(each["value"][1]) for each in service.watcher.query(with_short_windows(expression))
    ]
    return bool(values) and all(map(math.isfinite, values))


@pytest.mark.slow
def test_alert_when_requests_are_refused(service):
    def flood():
        def ask(number):
            try:
                with service.client(retry=ONCE) as client:
                    client.embed(f"{number}")
            except LensembleError:
                pass

        with ThreadPoolExecutor(100) as pool:
            list(pool.map(ask, range(300)))

    until_fires(service, "LensembleOverloaded", flood)


@pytest.mark.slow
def test_alert_when_deadlines_pass(service):
    rows = {"text": np.array([[b"x"]], np.object_)}

    def embed_too_late():
        with service.client() as client, pytest.raises(DeadlineExceededError):
            client.infer(contract.EMBED, rows, {"timeout_ms": 0.001}, DEADLINE_S)

    until_fires(service, "LensembleTimeouts", embed_too_late)


@pytest.mark.slow
def test_alerts_when_a_model_fails(service, fault):
    fault("broken")
    statuses = set()
    until_fires(service, "LensembleFails", lambda: statuses.add(service.ask("x")))
    until_fires(service, "LensembleGatewayFails", lambda: statuses.add(service.ask("x")))
    assert statuses == {500}


@pytest.mark.slow
def test_alerts_when_a_model_is_slow(service, fault):
    fault("slow")
    with ThreadPoolExecutor(8) as pool:

        def ask():
            list(pool.map(service.ask, "abcd"))  # the later ones wait for the first

        until_fires(service, "LensembleQueues", ask)
        until_fires(service, "LensembleGatewaySlow", ask)


@pytest.mark.slow
def test_alert_when_the_disk_is_full(service):
    process = service.process("store")
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (0, before[1]))

    def write():
        with service.client(retry=ONCE) as client, pytest.raises(StorageError):
            client.ingest("b", "a blue car", document={})

    try:
        until_fires(service, "LensembleStorage", write)
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, before)
    with service.client() as client:
        client.ingest("b", "a blue car", document={})
        assert client.get("b").id == "b"


@pytest.mark.slow
def test_alert_when_writes_are_faster_than_compaction(service):
    number = 0

    def write():
        nonlocal number
        vectors = np.eye(200, service.profile.dimension, dtype=np.float32)
        ids = [f"w{number + n}" for n in range(len(vectors))]
        number += len(ids)
        with service.client() as client:
            client.upsert(ids, vectors, profile=service.profile.hash)

    until_fires(service, "LensembleIndexBehind", write)


@pytest.mark.slow
def test_alerts_when_a_process_dies(service):
    def kill():
        # Kills it again whenever it is back before Prometheus has seen that it was down.
        if service.watching.state.ready:
            service.process("qwen3_vl").send_signal(signal.SIGKILL)
            until(lambda: not service.watching.state.ready)

    until_fires(service, "LensembleDown", kill)
    until_fires(service, "LensembleRestarted")
    service.until_ready()


@pytest.mark.slow
def test_alert_when_the_gateway_is_gone(service):
    port = urlsplit(service.gateway.url).port
    service.gateway.stop()
    try:
        until_fires(service, "LensembleUnreachable")
    finally:
        service.gateway = service.start_gateway(port)


@pytest.mark.slow
def test_every_alert_was_seen():
    assert seen == ALERTS
