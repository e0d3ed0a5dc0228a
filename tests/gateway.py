"""A gateway in front of a fake Triton, whose vectors and hits can be computed by hand."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np

from lensemble.gateway.app import Gateway
from lensemble.gateway.inputs.remote_pictures import PictureFetcher
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import AsyncClient, Retry
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Rows, blank_rows, from_rows
from tests.waiting import DEADLINE_S

PICTURE = b"\x89PNG not a real one"
DATA_URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


def vector_of(item: Item, length: int = 4) -> np.ndarray:
    """(characters, pictures, characters of the instruction, 1), scaled to unit length."""
    text, instruction = item.text or "", item.instruction or ""
    raw = np.array([len(text), len(item.images), len(instruction), 1], np.float32)[:length]
    return raw / np.linalg.norm(raw)


class FakeTriton:
    """An `AsyncTransport` that answers calls itself. It refuses the text `bad`.

    Attributes:
        calls: names of the models that were called.
        parameters: parameters of these calls.
        items: items that were embedded, in the order of the calls.
        hold: if set, calls wait for this event.
        cancelled: number of calls that were cancelled while they waited.
        error: raised by every call.
        errors: raised by the next calls, one each.
        stored: id -> document.
        documents: documents in the order in which they were stored.
        warnings: hints about the filter in the answer to a search.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parameters: list[dict[str, Any]] = []
        self.items: list[Item] = []
        self.hold: asyncio.Event | None = None
        self.cancelled = 0
        self.error: Exception | None = None
        self.errors: list[LensembleError] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.documents: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._called = asyncio.Condition()

    async def wait_for_calls(self, count: int) -> None:
        """Waits until at least this many calls have begun."""
        async with self._called:
            enough = self._called.wait_for(lambda: len(self.calls) >= count)
            await asyncio.wait_for(enough, DEADLINE_S)

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Any, timeout_s: float
    ) -> Rows:
        if parameters.get(contract.PING):
            return blank_rows(model.outputs)
        self.calls.append(model.name)
        self.parameters.append(dict(parameters))
        async with self._called:
            self._called.notify_all()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        outputs = self._store(rows, parameters) if model.name == "store" else self._run(model, rows)
        return {tensor.name: outputs[tensor.name] for tensor in model.outputs}

    def _run(self, model: contract.Model, rows: Rows) -> Rows:
        if model.name == "faiss":
            return self._hits(len(rows["embedding"]))
        items = from_rows({name: rows.get(name) for name in ("text", "image", "instruction")})
        for item in items:
            if isinstance(item, LensembleError):
                raise item
            if item.text == "bad":
                raise InvalidInputError("it is bad", field="text")
            self.items.append(item)
        outputs: Rows = {
            "embedding": np.stack([vector_of(item) for item in items]),
            "profile": np.full((len(items), 1), b"sha256:0", np.object_),
            "tokens": np.array([[len(item.text or "") + 10 * len(item.images)] for item in items]),
            **self._hits(len(items)),
        }
        if model.name == "ingest":
            for row in range(len(items)):
                document = json.loads(rows["document"][row, 0])
                self.stored[rows["id"][row, 0].decode()] = document
                self.documents.append(document)
            outputs["sequence"] = np.array([[len(self.stored)]] * len(items))
        return outputs

    def _hits(self, count: int) -> Rows:
        times = {time.name: np.full((count, 1), 1.5, np.float32) for time in contract.STAGE_TIMES}
        return {
            "ids": np.array([[b"one", b"two"]] * count, np.object_),
            "scores": np.array([[0.5, 0.25]] * count, np.float32),
            "documents": np.array([[b'{"image": "one.png"}', b"{}"]] * count, np.object_),
            "warnings": np.array([[json.dumps(self.warnings).encode()]] * count, np.object_),
            **times,
        }

    def _store(self, rows: Rows, parameters: Any) -> Rows:
        ids = [row[0].decode() for row in rows["id"]]
        if parameters["operation"] == "delete":
            removed = [[int(self.stored.pop(id_, None) is not None)] for id_ in ids]
            return {"sequence": np.array(removed)}
        if parameters["operation"] in ("patch", "set_document"):
            known = [int(id_ in self.stored) for id_ in ids]
            if known[0]:
                changes = json.loads(rows["document"][0, 0])
                merged = self.stored[ids[0]] if parameters["operation"] == "patch" else {}
                self.stored[ids[0]] = {**merged, **changes}
            return {"sequence": np.array([known])}
        if parameters["operation"] in ("list", "count"):
            return {"stored_document": np.array([[self._listed(ids[0], parameters)]], np.object_)}
        document = self.stored.get(ids[0], {})
        return {
            "sequence": np.array([[int(ids[0] in self.stored)]]),
            "stored_document": np.array([[json.dumps(document).encode()]], np.object_),
            "stored_digest": np.array([[b""]], np.object_),
            "stored_embedding": np.array([[0.0, 1.0]], np.float32),
        }

    def _listed(self, after: str, parameters: Any) -> bytes:
        """A page of the stored items, or their number; every filter matches every item."""
        found = sorted(id_ for id_ in self.stored if id_ > after)
        if parameters["operation"] == "count":
            return json.dumps({"count": len(found)}).encode()
        shown = found[: parameters["limit"]]
        items = [
            {"id": id_, "sequence": 1, "digest": "", "document": self.stored[id_]} for id_ in shown
        ]
        return json.dumps({"items": items, "next": shown[-1] if found != shown else None}).encode()

    async def ready(self, model: str, timeout_s: float) -> bool:
        return self.error is None

    async def version(self, timeout_s: float) -> str:
        return "fake 1"

    async def close(self) -> None:
        pass


@asynccontextmanager
async def gateway(
    triton: FakeTriton | None = None,
    picture_fetcher: PictureFetcher | None = None,
    tries: int = 1,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in this process, in front of a fake Triton."""
    defaults = {"metrics": "http://127.0.0.1:9/metrics", "access_log": False}
    client = AsyncClient(transport=triton or FakeTriton(), retry=Retry(tries, first_wait_s=0.0))
    app = Gateway(GatewaySettings(**{**defaults, **settings}), picture_fetcher, client)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.api.router.lifespan_context(app.api),
        httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=None) as http,
    ):
        yield http
