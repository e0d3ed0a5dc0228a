"""A real server whose encoder starts no computation while a test keeps its gate closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.scheduling.lanes import LANES
from lensemble.scheduling.shared_file import SharedNumbers
from lensemble.settings import Settings
from lensemble_client import Client, Item
from lensemble_contract import contract
from lensemble_contract.items import to_rows
from tests.waiting import DEADLINE_S

_GATED = """

class Gated(EncodeStage):
    def costs(self, row):
        return (1.0 if len(row[0].patches) else 0.01,)  # a picture fills a pass

    def run(self, rows):
        import time
        from pathlib import Path
        if rows:
            kinds = ["picture" if len(features.patches) else "text" for features, *_ in rows]
            with Path({passes!r}).open("a") as passes:
                passes.write(" ".join(kinds) + "\\n")
        while Path({closed!r}).exists():
            time.sleep(0.01)
        return super().run(rows)


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        self.model = load_model(Gated, args)
"""


class GatedServer:
    """The server, and what its encoder does.

    Args:
        server: the server.
        folder: folder of the gate's files.
    """

    def __init__(self, server: TritonServer, folder: Path) -> None:
        self.server = server
        self._closed, self._passes = folder / "closed", folder / "passes"

    @property
    def passes(self) -> list[list[str]]:
        """For each pass that has started, the kinds of its rows: `text` or `picture`."""
        if not self._passes.exists():
            return []
        return [line.split() for line in self._passes.read_text().splitlines()]

    def waiting(self, lane: str) -> int:
        """Number of rows that wait in a lane now."""
        (path,) = self.server.heartbeats.glob(f"admission.{contract.QWEN3_VL.name}.*")
        return int(SharedNumbers.open(path).read()[2 * LANES.index(lane) + 1])

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keeps the gate closed: a pass that starts inside the block ends after it."""
        self._closed.touch()
        try:
            yield
        finally:
            self._closed.unlink()

    def embed_two(self, item: Item) -> list[object]:
        """Embeds an item twice in one request, which is too large for a single pass of pictures."""
        with Client(self.server.grpc_url, timeout_s=DEADLINE_S) as client:
            rows = client.infer(contract.EMBED, to_rows([item, item]), {}, DEADLINE_S)
        return list(rows[contract.EMBEDDING.name])


@contextmanager
def gated_server(checkpoint: Path, folder: Path) -> Iterator[GatedServer]:
    """Starts the server.

    Args:
        checkpoint: folder of the checkpoint.
        folder: an empty folder.
    """
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    repository = write_repository(settings, folder / "models")
    model = repository / contract.QWEN3_VL.name / "1" / "model.py"
    gate = _GATED.format(passes=str(folder / "passes"), closed=str(folder / "closed"))
    model.write_text(model.read_text() + gate)
    with TritonServer(settings, repository=repository) as server:
        yield GatedServer(server, folder)
