"""`store`: unit vectors, ids and documents -> the index; and what is in it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.index import check_profile
from lensemble.index.maintenance.compactor import Compactor
from lensemble.index.maintenance.create import ensure_index
from lensemble.index.maintenance.stats import stats_json
from lensemble.index.storage.changes import Change, Delete, Upsert, checked_change
from lensemble.index.storage.store import Store
from lensemble.settings import Settings
from lensemble.stages import stage
from lensemble.stages.stage import Parameters, Stage
from lensemble_contract import contract
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotReadyError,
    ReadOnlyError,
)
from lensemble_contract.items import Rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """A question.

    Attributes:
        operation: `get` or `stats`.
        id: Of the item, for `get`.
    """

    operation: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a row.

    Attributes:
        sequence: Of the change, or of the item; 0 if there was none.
        document: JSON text; empty if none was asked for.
        digest: Of what the item was made from.
        embedding: (D,) float32; empty if none was asked for.
    """

    sequence: int
    document: str = ""
    digest: str = ""
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


class StoreStage(Stage[Change | Read, Stored]):
    """Writes, one transaction for all that come together; and reads."""

    model = contract.STORE
    patience_s = 60.0  # slow disks, and SQLite that waits for another writer

    def __init__(self, settings: Settings, device: str) -> None:
        self._store: Store | None = None
        self._read_for = 0
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

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Change | Read | LensembleError]:
        """See `Stage.read`."""
        if self._store is None:
            raise NotReadyError("no index is loaded; start the server with one (--index)")
        operation = stage.text(parameters, contract.OPERATION) or contract.UPSERT
        if operation not in contract.OPERATIONS:
            raise InvalidInputError(
                f"{operation!r}; expected one of {', '.join(contract.OPERATIONS)}",
                field=contract.OPERATION,
            )
        ids = [bytes(id_[0]) for id_ in rows[contract.ID.name]]
        if operation == contract.STATS:
            return [Read(operation) for _ in ids]
        if operation in (contract.UPSERT, contract.DELETE) and not self._writes:
            raise ReadOnlyError(
                "this server takes no writes; start it with --writes (LENSEMBLE_WRITES=on)"
            )
        decoded = [_decoded(id_, contract.ID.name) for id_ in ids]
        if operation == contract.UPSERT:
            return self._upserts(rows, decoded, parameters)
        made: Callable[[str], Change | Read] = Delete
        if operation == contract.GET:
            made = functools.partial(Read, operation)
        return [
            id_ if isinstance(id_, LensembleError) else self._sound(made(id_)) for id_ in decoded
        ]

    def _upserts(
        self, rows: Rows, ids: Sequence[str | LensembleError], parameters: Parameters
    ) -> Sequence[Change | Read | LensembleError]:
        assert self._store is not None
        if given := stage.text(parameters, contract.PROFILE):
            check_profile(self._store.profile_name, self._store.profile_hash, given)
        digest = stage.text(parameters, contract.DIGEST)
        if digest and len(ids) > 1:
            raise InvalidInputError(
                f"{digest[:40]!r} for {len(ids)} items; send one item", field=contract.DIGEST
            )
        vectors = stage.cut_to(
            self._store.dimension,
            self._profile.dimension,
            rows[contract.EMBEDDING.name],
            parameters,
        )
        documents = [bytes(document[0]) for document in rows[contract.DOCUMENT.name]]
        made = [
            _upsert(id_, vector, _decoded(document, contract.DOCUMENT.name), digest)
            for id_, vector, document in zip(ids, vectors, documents, strict=True)
        ]
        return [row if isinstance(row, LensembleError) else self._sound(row) for row in made]

    def _sound(self, row: Change | Read) -> Change | Read | LensembleError:
        """The row, or why it cannot be: known before anything of its request is written."""
        assert self._store is not None
        self._read_for = self._store.dimension
        try:
            return row if isinstance(row, Read) else checked_change(row, self._store.dimension)
        except InvalidInputError as error:
            return error

    def run(self, rows: Sequence[Change | Read]) -> Sequence[Stored | LensembleError]:
        """See `Stage.run`. Writes come first; what is read is the state after them."""
        if not rows or self._store is None:
            return []
        try:
            if self._store.is_replaced:
                self._reopen()
            changes = [row for row in rows if not isinstance(row, Read)]
            written = iter(self._write(changes) if changes else [])
            return [
                self._answer(row) if isinstance(row, Read) else _stored(next(written))
                for row in rows
            ]
        except LensembleError as error:
            logger.error("%s", error)
            return [error] * len(rows)

    def write(self, results: Sequence[Stored]) -> Rows:
        """See `Stage.write`."""
        length = max(len(stored.embedding) for stored in results)
        vectors = np.zeros((len(results), length), np.float32)
        for n, stored in enumerate(results):
            vectors[n, : len(stored.embedding)] = stored.embedding
        return {
            contract.SEQUENCE.name: np.array([[s.sequence] for s in results], np.int64),
            contract.STORED_DOCUMENT.name: _column([s.document for s in results]),
            contract.STORED_DIGEST.name: _column([s.digest for s in results]),
            contract.STORED_EMBEDDING.name: vectors,
        }

    def close(self) -> None:
        """See `Stage.close`."""
        if self._compactor is not None:
            self._compactor.stop()
        if self._store is not None:
            self._store.close()

    def _answer(self, row: Read) -> Stored | LensembleError:
        assert self._store is not None
        if row.operation == contract.STATS:
            return Stored(self._store.sequence, stats_json(self._store))
        try:
            (record,) = self._store.get([row.id])
        except LensembleError as error:  # of this row alone
            return error
        if record is None:
            return Stored(0)
        return Stored(record.sequence, record.document, record.digest, record.vector)

    def _write(self, changes: list[Change]) -> list[int | LensembleError]:
        assert self._store is not None
        # `read` checked them, but for the dimension of an index that was put in place since.
        same = self._store.dimension == self._read_for
        return self._store.write(changes, checked=same)

    def _reopen(self) -> None:
        assert self._store is not None
        old, self._store = self._store, Store.open(self._store.folder)
        try:
            self._check_profile()
        except BaseException:  # the next call tries again
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
    """A change, or why it is none; the vector is copied, as the server takes its buffer back."""
    for part in (id_, document):
        if isinstance(part, LensembleError):
            return part
    return Upsert(str(id_), vector.copy(), str(document) or "{}", digest)


def _stored(result: int | LensembleError) -> Stored | LensembleError:
    return result if isinstance(result, LensembleError) else Stored(result)


def _column(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([[text.encode()] for text in texts], np.object_)
