"""Transports to the real stages of the index, without Triton and without an encoder.

The vectors of items are those of the fake server (`lensemble_client.testing.vector_of`), so a test
that uses these transports needs neither PyTorch nor a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.search import SearchStage
from lensemble.stages.store import StoreStage
from lensemble.vectors import cut_rows
from lensemble_client.testing import vector_of
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows, from_rows
from lensemble_contract.parameters import whole_number
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
LENGTH = PROFILE.dimension


def raise_first_error(rows: Sequence[Any]) -> list[Any]:
    for row in rows:
        if isinstance(row, LensembleError):
            raise row
    return list(rows)


class StagesTransport:
    """A `Transport` to the stages `store` and `faiss` over an index in a folder."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(checkpoint=CHECKPOINT, index=folder, writes="on", compact_rows=0)
        self.store, self.search = StoreStage(settings, "cpu"), SearchStage(settings, "cpu")

    def infer(self, model: contract.Model, rows: Rows, parameters: Any, timeout_s: float) -> Rows:
        if contract.TEXT.name in rows:
            items = raise_first_error(from_rows({name: rows.get(name) for name in ITEM_NAMES}))
            vectors = np.stack([vector_of(item, LENGTH) for item in items])
            length = PROFILE.check_dimensions(whole_number(parameters, contract.DIMENSIONS))
            rows = {**rows, contract.EMBEDDING.name: cut_rows(vectors, length)}
            if model.name == contract.INGEST.name:
                rows |= {tensor.name: np.ones((len(items), 1)) for tensor in contract.CARRIED}
        if model.name == contract.EMBED.name:
            return rows
        stores = model.name in (contract.STORE.name, contract.INGEST.name)
        stage = self.store if stores else self.search
        read = raise_first_error(stage.read(rows, parameters))
        outputs = stage.write(raise_first_error(stage.run(read)))
        times = {tensor.name: np.zeros((len(read), 1)) for tensor in contract.STAGE_TIMES}
        return times | {contract.TOKENS.name: np.ones((len(read), 1), int)} | outputs

    def close(self) -> None:
        self.store.close()
        self.search.close()


class AsyncStagesTransport:
    """The same as an `AsyncTransport`."""

    def __init__(self, transport: StagesTransport) -> None:
        self._transport = transport

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Any, timeout_s: float
    ) -> Rows:
        return self._transport.infer(model, rows, parameters, timeout_s)

    async def close(self) -> None:
        pass


ITEM_NAMES = [tensor.name for tensor in contract.ITEM]
