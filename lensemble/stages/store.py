"""`store`: writes items into the index and reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.index.checks import check_profile
from lensemble.index.maintenance.compactor import Compactor
from lensemble.index.maintenance.create import ensure_index
from lensemble.index.maintenance.stats import stats_json
from lensemble.index.storage.changes import Change, Delete, Upsert, checked_change
from lensemble.index.storage.store import Store
from lensemble.settings import Settings
from lensemble.stages.parameters import cut_to_index
from lensemble.stages.stage import Stage
from lensemble_contract import contract
from lensemble_contract import parameters as request_parameters
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotReadyError,
    ReadOnlyError,
)
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadOperation:
    """A row that reads the index.

    Attributes:
        operation: `get` or `stats`.
        id: id of the item, for `get`.
    """

    operation: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class StoreResult:
    """The result of one row.

    Attributes:
        sequence: sequence number of the write, or of the item that was read; 0 if there is no such
            item. With statistics, that of the last change.
        document: JSON text: the item's document or the index's statistics; empty after a write.
        digest: digest of the content from which the item was made.
        embedding: the item's vector, (D,) float32; empty unless an item was read.
    """

    sequence: int
    document: str = ""
    digest: str = ""
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


# One row of a request: a write or a read.
StoreRow = Change | ReadOperation


class StoreStage(Stage[StoreRow, StoreResult]):
    """Writes and reads the index. All writes of a batch form one transaction."""

    model = contract.STORE
    patience_s = 60.0  # the disk may be slow, and SQLite waits for other writers

    def __init__(self, settings: Settings, device: str) -> None:
        self._store: Store | None = None
        self._compactor: Compactor | None = None
        if settings.index is None:
            return
        self._profile = Checkpoint.open(settings.checkpoint).profile
        self._writes = settings.writes == "on"
        if self._writes:
            ensure_index(settings.index, self._profile)
        self._store = Store.open(settings.index)
        self._check_profile()
        if self._writes and settings.compact_rows:
            self._compactor = Compactor(settings.index, settings.compact_rows)
            self._compactor.start()

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[StoreRow | LensembleError]:
        """See `Stage.read`."""
        if self._store is None:
            raise NotReadyError("no index is loaded; start the server with one (--index)")
        operation = request_parameters.text(parameters, contract.OPERATION) or contract.UPSERT
        if operation not in contract.OPERATIONS:
            raise InvalidInputError(
                f"{operation!r}; expected one of {', '.join(contract.OPERATIONS)}",
                field=contract.OPERATION,
            )
        ids = [bytes(id_[0]) for id_ in rows[contract.ID.name]]
        if operation == contract.STATS:
            return [ReadOperation(operation) for _ in ids]
        if operation in (contract.UPSERT, contract.DELETE) and not self._writes:
            raise ReadOnlyError(
                "this server takes no writes; start it with --writes (LENSEMBLE_WRITES=on)"
            )
        decoded = [_decoded(id_, contract.ID.name) for id_ in ids]
        if operation == contract.UPSERT:
            return self._upserts(rows, decoded, parameters)
        if operation == contract.DELETE:
            deletes = [id_ if isinstance(id_, LensembleError) else Delete(id_) for id_ in decoded]
            return self._checked(deletes)
        return [
            id_ if isinstance(id_, LensembleError) else ReadOperation(operation, id_)
            for id_ in decoded
        ]

    def _upserts(
        self, rows: Rows, ids: Sequence[str | LensembleError], parameters: Parameters
    ) -> Sequence[StoreRow | LensembleError]:
        assert self._store is not None
        if profile_hash := request_parameters.text(parameters, contract.PROFILE):
            check_profile(self._store.profile_name, self._store.profile_hash, profile_hash)
        digest = request_parameters.text(parameters, contract.DIGEST)
        if digest and len(ids) > 1:
            raise InvalidInputError(
                f"{digest[:40]!r} for {len(ids)} items; send one item",
                field=contract.DIGEST,
            )
        vectors = cut_to_index(
            rows[contract.EMBEDDING.name],
            parameters,
            index_dimension=self._store.dimension,
            profile_dimension=self._profile.dimension,
        )
        documents = [bytes(document[0]) for document in rows[contract.DOCUMENT.name]]
        upserts = [
            _upsert(id_, vector, _decoded(document, contract.DOCUMENT.name), digest)
            for id_, vector, document in zip(ids, vectors, documents, strict=True)
        ]
        return self._checked(upserts)

    def _checked(self, changes: Sequence[Change | LensembleError]) -> list[Change | LensembleError]:
        """Checks changes before any is written; an invalid one becomes its error."""
        assert self._store is not None
        results: list[Change | LensembleError] = []
        for change in changes:
            if isinstance(change, LensembleError):
                results.append(change)
                continue
            try:
                results.append(checked_change(change, self._store.dimension))
            except InvalidInputError as error:
                results.append(error)
        return results

    def run(self, rows: Sequence[StoreRow]) -> Sequence[StoreResult | LensembleError]:
        """See `Stage.run`. Writes come first, so reads of the same batch see them."""
        if not rows or self._store is None:
            return []
        checked_dimension = self._store.dimension  # for which `read` checked the changes
        try:
            if self._store.is_replaced:
                self._reopen()
            changes = [row for row in rows if not isinstance(row, ReadOperation)]
            # If the new index has another dimension, the store checks the changes again.
            checked = self._store.dimension == checked_dimension
            written = iter(self._store.write(changes, checked=checked) if changes else [])
            return [
                self._read_index(row)
                if isinstance(row, ReadOperation)
                else _write_result(next(written))
                for row in rows
            ]
        except LensembleError as error:
            logger.error("%s", error)
            return [error] * len(rows)

    def write(self, results: Sequence[StoreResult]) -> Rows:
        """See `Stage.write`."""
        length = max(len(result.embedding) for result in results)
        vectors = np.zeros((len(results), length), np.float32)
        for n, result in enumerate(results):
            vectors[n, : len(result.embedding)] = result.embedding
        return {
            contract.SEQUENCE.name: np.array([[result.sequence] for result in results], np.int64),
            contract.STORED_DOCUMENT.name: _column([result.document for result in results]),
            contract.STORED_DIGEST.name: _column([result.digest for result in results]),
            contract.STORED_EMBEDDING.name: vectors,
        }

    def close(self) -> None:
        """See `Stage.close`."""
        if self._compactor is not None:
            self._compactor.stop()
        if self._store is not None:
            self._store.close()

    def _read_index(self, row: ReadOperation) -> StoreResult | LensembleError:
        assert self._store is not None
        if row.operation == contract.STATS:
            return StoreResult(self._store.sequence, stats_json(self._store))
        try:
            (item,) = self._store.get([row.id])
        except LensembleError as error:  # only this row fails
            return error
        if item is None:
            return StoreResult(0)
        return StoreResult(item.sequence, item.document, item.digest, item.vector)

    def _reopen(self) -> None:
        assert self._store is not None
        old, self._store = self._store, Store.open(self._store.folder)
        try:
            self._check_profile()
        except BaseException:  # keep the old index; the next batch tries again
            self._store.close()
            self._store = old
            raise
        old.close()

    def _check_profile(self) -> None:
        assert self._store is not None
        check_profile(self._store.profile_name, self._store.profile_hash, self._profile.hash)


def _decoded(text: bytes, name: str) -> str | LensembleError:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        return InvalidInputError(f"not valid UTF-8 at byte {error.start}", field=name)


def _upsert(
    id_: str | LensembleError,
    vector: NDArray[np.float32],
    document: str | LensembleError,
    digest: str,
) -> Upsert | LensembleError:
    """The change, or the error of its id or document."""
    if isinstance(id_, LensembleError):
        return id_
    if isinstance(document, LensembleError):
        return document
    return Upsert(id_, vector, document or "{}", digest)


def _write_result(result: int | LensembleError) -> StoreResult | LensembleError:
    return result if isinstance(result, LensembleError) else StoreResult(result)


def _column(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([[text.encode()] for text in texts], np.object_)
