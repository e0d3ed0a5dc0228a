"""The whole server is killed under load, or the process of one model; then it is started again.

What was acknowledged is found through the new server, by `get` and by search; a request whose
answer never came is there whole or not at all, as one request is one transaction. Triton does not
replace a model's process that died: who has lost one is started again, too. A damaged snapshot is
left out, and the log names it; a damaged store ends the start, with the command that mends it.
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
from tests.faults.harness import PATIENCE_S, note_on_failure

pytestmark = pytest.mark.e2e

WRITERS, GROUPS, ROWS = 2, 3, contract.MAX_BATCH_SIZE
DIMENSION = 256
TIMEOUT_S = 3.0
"""Triton may never answer for a process that was killed."""
VICTIMS = ("group", "store", "server", "faiss")
"""Who is killed, round by round: all processes at once, Triton alone, or one model's process."""


def vectors(writer: int, number: int) -> np.ndarray:
    """Those of a request (`ROWS`, D)."""
    made = np.random.default_rng((writer, number)).standard_normal((ROWS, DIMENSION))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def ids(writer: int, group: int) -> list[str]:
    return [f"{writer}/{group}/{row}" for row in range(ROWS)]


class Load:
    """A thread that sends requests of 64 rows until one fails: new items, new versions, deletes.

    Request n is about group n modulo `GROUPS`; every seventh deletes it.
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self.next = 0
        """Number of the first request that was not acknowledged."""
        self.states: dict[int, list[int]] = {group: [-1] for group in range(GROUPS)}
        """By group, the requests that may have been the last one; -1 stands for none."""
        self.sequences: dict[int, list[int]] = {}

    def run(self, url: str, profile: str) -> None:
        with Client(url, timeout_s=TIMEOUT_S) as client:
            while True:
                group = self.next % GROUPS
                self.states[group] = [*self.states[group][:1], self.next]
                try:
                    sequences = self._send(client, group, profile)
                except LensembleError:
                    self.next += 1  # its answer never came
                    return
                self.states[group] = [self.next]
                self.sequences[self.next] = sequences
                self.next += 1

    def _send(self, client: Client, group: int, profile: str) -> list[int]:
        named = ids(self._writer, group)
        if self.next % 7 == 6:
            return client.delete(named)
        said = [{"request": self.next, "row": row} for row in range(ROWS)]
        return client.upsert(named, vectors(self._writer, self.next), said, profile=profile)

    def check(self, client: Client) -> None:
        """Whether each group is what its last request made of it; asks one row after the other."""
        for group, possible in self.states.items():
            found = [self._found(client, id_) for id_ in ids(self._writer, group)]
            (last,) = {-1 if stored is None else stored.document["request"] for stored in found}
            fits = [n for n in possible if n == last or (last < 0 and n % 7 == 6)]
            assert fits, f"writer {self._writer}, group {group}: {last} is there, not {possible}"
            self.states[group] = fits
            if last < 0:
                continue
            expected = vectors(self._writer, last)
            for row, stored in enumerate(found):
                assert stored.document == {"request": last, "row": row}
                assert np.allclose(stored.embedding, expected[row], atol=1e-6)
            if last in self.sequences:
                assert [stored.sequence for stored in found] == self.sequences[last]
            for row in (0, ROWS // 2, ROWS - 1):
                (hit,) = client.search_vector(expected[row], top_k=1)
                assert hit.id == f"{self._writer}/{group}/{row}"
                assert hit.document == {"request": last, "row": row}
                assert hit.score == pytest.approx(1, abs=1e-4)

    def _found(self, client: Client, id_: str):
        try:
            return client.get(id_)
        except NotFoundError:
            return None


def search(url: str, ended: threading.Event) -> None:
    """Load, too; what a search finds is checked after the restart."""
    queries = vectors(9, 9)
    with Client(url, timeout_s=TIMEOUT_S) as client, contextlib.suppress(LensembleError):
        while not ended.is_set():
            for query in queries:
                client.search_vector(query, top_k=20)


def stub(server: TritonServer, model: str) -> psutil.Process:
    """The process of a model."""
    (found,) = [
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if process.name().startswith("triton_python")
        and f"/{model}/" in " ".join(process.cmdline())
    ]
    return found


def kill(server: TritonServer, victim: str) -> None:
    if victim == "server":
        os.kill(server.pid, signal.SIGKILL)
        return
    if victim in contract.MODELS:
        stub(server, victim).kill()
        time.sleep(0.2)  # the others go on as far as they can
    os.killpg(server.pid, signal.SIGKILL)  # as a container goes


def test_killed_server_comes_back_with_all_that_was_acknowledged(checkpoint, tmp_path):
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
                    kill(server, "group")  # to stop in order takes it seconds
        with note_on_failure(turn=turn, victim=victim):
            assert_gone(server, family)
    assert acknowledged > 5 * WRITERS
    with Store.open(tmp_path / "index") as store:
        store.verify()
    damage_store(tmp_path / "index")
    with pytest.raises(InternalError, match="before it was ready") as caught:
        TritonServer(settings).start()
    assert STORE_FILE in str(caught.value)
    assert "lensemble index restore" in str(caught.value)


def damage_snapshot(folder: Path) -> str:
    """Flips a bit in the current one, as made by the server beside its work."""
    with Store.open(folder) as store:
        name = store.snapshot
    assert name, "no snapshot was made under load"
    path = folder / SNAPSHOTS / name / INDEX
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return name


def damage_store(folder: Path) -> None:
    """Loses the first bytes of the file."""
    path = folder / STORE_FILE
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def under_load(
    server: TritonServer, loads: list[Load], victim: str, delay_s: float, profile: str
) -> int:
    """Kills somebody a while after every writer had an answer; how many answers there were."""
    before = [load.next for load in loads]
    ended = threading.Event()
    threads = [
        *(threading.Thread(target=load.run, args=(server.grpc_url, profile)) for load in loads),
        *(threading.Thread(target=search, args=(server.grpc_url, ended)) for _ in range(2)),
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PATIENCE_S
    while any(load.next == start for load, start in zip(loads, before, strict=True)):
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(delay_s)
    kill(server, victim)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    return sum(load.next - start for load, start in zip(loads, before, strict=True)) - len(loads)


def assert_gone(server: TritonServer, family: list[psutil.Process]) -> None:
    """No process, no shared memory and no folder is left."""
    _, alive = psutil.wait_procs(family, timeout=5)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert list(Path("/dev/shm").glob(f"{server._shared_memory_prefix}*")) == []
    assert not server.log_file.parent.exists()
