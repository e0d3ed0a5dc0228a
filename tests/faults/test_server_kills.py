"""The whole server or one model process is killed under load; then the server is started again.

The new server finds all acknowledged writes, by `get` and by search. A request without an answer is
stored whole or not at all, because one request is one transaction. A damaged snapshot is not used,
and the log names it. With a damaged store, the server does not start, and names the command that
repairs it.
"""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lensemble.index.snapshots.manifest import INDEX, SNAPSHOTS
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError, NotFoundError
from tests.faults.harness import note_on_failure
from tests.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WRITERS, GROUPS, ROWS = 2, 3, contract.MAX_BATCH_SIZE
DIMENSION = 256
# Triton may never answer a request to a process that was killed. So calls end after this time; an
# answer takes far less, even on a busy machine.
TIMEOUT_S = 30.0
# Number of requests of each writer that are answered before the kill.
LEAST_ANSWERS = 3
# The victim of each round: all processes, one model process, or tritonserver alone.
VICTIMS = ("group", "store", "server", "faiss")


def vectors(writer: int, number: int) -> np.ndarray:
    """The vectors of a request, (`ROWS`, D)."""
    drawn = np.random.default_rng((writer, number)).standard_normal((ROWS, DIMENSION))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def ids(writer: int, group: int) -> list[str]:
    return [f"{writer}/{group}/{row}" for row in range(ROWS)]


class Load:
    """Sends requests of 64 rows until one fails: new items, new versions and deletes.

    Request n writes the group n modulo `GROUPS`; every seventh request deletes its group.
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer
        # Number of the next request.
        self.next = 0
        # For each group, the requests that may have been the last one; -1 stands for none.
        self.states: dict[int, list[int]] = {group: [-1] for group in range(GROUPS)}
        self.sequences: dict[int, list[int]] = {}

    def run(self, url: str, profile: str) -> None:
        with Client(url, timeout_s=TIMEOUT_S) as client:
            while True:
                group = self.next % GROUPS
                self.states[group] = [*self.states[group][:1], self.next]
                try:
                    sequences = self._send(client, group, profile)
                except LensembleError:
                    self.next += 1  # it may have been written, or not
                    return
                self.states[group] = [self.next]
                self.sequences[self.next] = sequences
                self.next += 1

    def _send(self, client: Client, group: int, profile: str) -> list[int]:
        group_ids = ids(self._writer, group)
        if self.next % 7 == 6:
            return client.delete(group_ids)
        documents = [{"request": self.next, "row": row} for row in range(ROWS)]
        return client.upsert(
            group_ids, vectors(self._writer, self.next), documents, profile=profile
        )

    def check(self, client: Client) -> None:
        """Checks that each group is as its last request left it; reads it row by row."""
        for group, possible in self.states.items():
            items = [self._get(client, id_) for id_ in ids(self._writer, group)]
            (last,) = {-1 if item is None else item.document["request"] for item in items}
            matching = [n for n in possible if n == last or (last < 0 and n % 7 == 6)]
            assert matching, f"writer {self._writer}, group {group}: {last}, not {possible}"
            self.states[group] = matching
            if last < 0:
                continue
            expected = vectors(self._writer, last)
            for row, item in enumerate(items):
                assert item.document == {"request": last, "row": row}
                assert np.allclose(item.embedding, expected[row], atol=1e-6)
            if last in self.sequences:
                assert [item.sequence for item in items] == self.sequences[last]
            for row in (0, ROWS // 2, ROWS - 1):
                (hit,) = client.search_vector(expected[row], top_k=1)
                assert hit.id == f"{self._writer}/{group}/{row}"
                assert hit.document == {"request": last, "row": row}
                assert hit.score == pytest.approx(1, abs=1e-4)

    def _get(self, client: Client, id_: str):
        try:
            return client.get(id_)
        except NotFoundError:
            return None


def search(url: str, ended: threading.Event) -> None:
    """Searches as additional load; the results are checked after the restart only."""
    queries = vectors(9, 9)
    with Client(url, timeout_s=TIMEOUT_S) as client, contextlib.suppress(LensembleError):
        while not ended.is_set():
            for query in queries:
                client.search_vector(query, top_k=20)


def model_process(server: TritonServer, model: str) -> psutil.Process:
    (process,) = [
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if process.name().startswith("triton_python")
        and f"/{model}/" in " ".join(process.cmdline())
    ]
    return process


def kill(server: TritonServer, victim: str, delay_s: float = 0) -> None:
    """Kills one of `VICTIMS`; if it is a model process, then all others after `delay_s`."""
    if victim == "server":
        os.kill(server.pid, signal.SIGKILL)
        return
    if victim in contract.MODELS:
        model_process(server, victim).kill()
        time.sleep(delay_s)  # so that the other processes are killed at different moments
    os.killpg(server.pid, signal.SIGKILL)  # like the end of a container


def test_killed_server_keeps_all_acknowledged_writes(checkpoint, tmp_path):
    draw = random.Random(0)
    settings = Settings(
        checkpoint=checkpoint, index=tmp_path / "index", dtype="fp32", writes="on", compact_rows=400
    )
    loads = [Load(writer) for writer in range(WRITERS)]
    acknowledged = 0
    for turn, victim in enumerate([*VICTIMS, ""]):
        if not victim:
            damaged = damage_snapshot(tmp_path / "index")
        with TritonServer(settings) as server, Client(server.grpc_url) as client:
            family = psutil.Process(server.pid).children(recursive=True)
            with note_on_failure(turn=turn, victim=victim, before=VICTIMS[:turn]):
                for load in loads:
                    load.check(client)
                if victim:
                    profile = client.stats()["profile_hash"]
                    delay_s = draw.uniform(0, 0.5)
                    acknowledged += under_load(server, loads, victim, delay_s, profile)
                else:
                    assert f"{damaged}' cannot be used" in server.log_file.read_text()
                    kill(server, "group")  # faster than an orderly stop, which takes seconds
        with note_on_failure(turn=turn, victim=victim):
            assert_gone(server, family)
    assert acknowledged >= LEAST_ANSWERS * WRITERS * len(VICTIMS)
    with Store.open(tmp_path / "index") as store:
        store.verify()
    damage_store(tmp_path / "index")
    with pytest.raises(InternalError, match="could not be loaded") as caught:
        TritonServer(settings).start()
    assert STORE_FILE in str(caught.value)
    assert "lensemble index restore" in str(caught.value)


def damage_snapshot(folder: Path) -> str:
    """Flips a bit in the current snapshot, which the server made under load; returns its name."""
    with Store.open(folder) as store:
        name = store.snapshot
    assert name, "no snapshot was made under load"
    path = folder / SNAPSHOTS / name / INDEX
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return name


def damage_store(folder: Path) -> None:
    """Overwrites the first bytes of the file."""
    path = folder / STORE_FILE
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def under_load(
    server: TritonServer, loads: list[Load], victim: str, delay_s: float, profile: str
) -> int:
    """Kills the victim some time after every writer has had `LEAST_ANSWERS` answers.

    The last victim is killed only after the server has made a snapshot.

    Returns:
        Number of acknowledged requests.
    """
    before = [load.next for load in loads]
    ended = threading.Event()
    threads = [
        *(threading.Thread(target=load.run, args=(server.grpc_url, profile)) for load in loads),
        *(threading.Thread(target=search, args=(server.grpc_url, ended)) for _ in range(2)),
    ]
    for thread in threads:
        thread.start()
    until(
        lambda: all(
            load.next >= start + LEAST_ANSWERS for load, start in zip(loads, before, strict=True)
        ),
        f"{LEAST_ANSWERS} answers for each writer",
    )
    if victim == VICTIMS[-1]:
        with Client(server.grpc_url, timeout_s=TIMEOUT_S) as client:
            until(lambda: client.stats()["snapshot"], "a snapshot")
    time.sleep(delay_s)  # so that the kills hit different moments
    kill(server, victim, delay_s)
    ended.set()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    return sum(load.next - start for load, start in zip(loads, before, strict=True)) - len(loads)


def assert_gone(server: TritonServer, family: list[psutil.Process]) -> None:
    """Checks that no process, no shared memory and no folder is left."""
    _, alive = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert list(Path("/dev/shm").glob(f"{server._shared_memory_prefix}*")) == []
    assert not server.log_file.parent.exists()
