"""`store`: writes items into the index and reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lensemble.checkpoint import Checkpoint
from lensemble.index.checks import check_profile
from lensemble.index.maintenance.compactor import Compactor
from lensemble.index.maintenance.create import ensure_index
from lensemble.index.storage.changes import Change, Delete, checked_change
from lensemble.index.storage.store import Store
from lensemble.settings import Settings
from lensemble.stages.parameters import vectors_for_index
from lensemble.stages.stage import Stage
from lensemble.stages.store_reads import read_index, read_operation
from lensemble.stages.store_rows import (
    NOTHING_CARRIED,
    ReadOperation,
    StoreResult,
    StoreRow,
    read_carried,
    read_document_change,
    read_id,
    read_upsert,
    result_rows,
)
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
from lensemble_contract.texts import quoted

logger = logging.getLogger(__name__)


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
        ids = [bytes(id_[0]) for id_ in rows[contract.ID.name]]
        carried = read_carried(rows, len(ids))
        operation = request_parameters.text(parameters, contract.OPERATION) or contract.UPSERT
        # `ingest` must not answer without having stored the item.
        operations = contract.OPERATIONS if carried is None else (contract.UPSERT,)
        if operation not in operations:
            raise InvalidInputError(
                f"{quoted(operation)}; expected one of {', '.join(operations)}",
                field=contract.OPERATION,
            )
        requests = self._read_requests(operation, ids, rows, parameters)
        return [
            request if isinstance(request, LensembleError) else StoreRow(request, figures)
            for request, figures in zip(
                requests, carried or [NOTHING_CARRIED] * len(ids), strict=True
            )
        ]

    def _read_requests(
        self, operation: str, ids: Sequence[bytes], rows: Rows, parameters: Parameters
    ) -> Sequence[Change | ReadOperation | LensembleError]:
        if operation not in contract.WRITING_OPERATIONS:
            return [read_operation(operation, id_, parameters) for id_ in ids]
        if not self._writes:
            raise ReadOnlyError(
                "this server takes no writes; start it with --writes (LENSEMBLE_WRITES=on)"
            )
        read_ids = [read_id(id_) for id_ in ids]
        if operation == contract.UPSERT:
            return self._upserts(rows, read_ids, parameters)
        if operation == contract.DELETE:
            return [id_ if isinstance(id_, LensembleError) else Delete(id_) for id_ in read_ids]
        digest = _digest_of_one(parameters, len(ids))
        merge = operation == contract.PATCH
        if digest and merge:
            raise InvalidInputError("only `set_document` takes one", field=contract.DIGEST)
        documents = [bytes(document[0]) for document in rows[contract.DOCUMENT.name]]
        return self._checked(
            [
                read_document_change(id_, document, digest, merge=merge)
                for id_, document in zip(read_ids, documents, strict=True)
            ]
        )

    def _upserts(
        self, rows: Rows, ids: Sequence[str | LensembleError], parameters: Parameters
    ) -> Sequence[Change | LensembleError]:
        assert self._store is not None
        if profile_hash := request_parameters.text(parameters, contract.PROFILE):
            check_profile(self._store.profile_name, self._store.profile_hash, profile_hash)
        digest = _digest_of_one(parameters, len(ids))
        vectors = vectors_for_index(
            rows[contract.EMBEDDING.name],
            parameters,
            index_dimension=self._store.dimension,
            profile_dimension=self._profile.dimension,
        )
        documents = [bytes(document[0]) for document in rows[contract.DOCUMENT.name]]
        return self._checked(
            [
                read_upsert(id_, vector, document, digest)
                for id_, vector, document in zip(ids, vectors, documents, strict=True)
            ]
        )

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
            changes = [row.request for row in rows if not isinstance(row.request, ReadOperation)]
            # If the new index has another dimension, the store checks the changes again.
            checked = self._store.dimension == checked_dimension
            written = iter(self._store.write(changes, checked=checked) if changes else [])
            return [
                read_index(self._store, row.request)
                if isinstance(row.request, ReadOperation)
                else _write_result(next(written), row)
                for row in rows
            ]
        except LensembleError as error:
            logger.error("%s", error)
            return [error] * len(rows)

    def write(self, results: Sequence[StoreResult]) -> Rows:
        """See `Stage.write`."""
        return result_rows(results)

    def close(self) -> None:
        """See `Stage.close`."""
        if self._compactor is not None:
            self._compactor.stop()
        if self._store is not None:
            self._store.close()

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


def _digest_of_one(parameters: Parameters, count: int) -> str:
    """The digest of a request, which may have one only if it has one row."""
    digest = request_parameters.text(parameters, contract.DIGEST)
    if digest and count > 1:
        raise InvalidInputError(
            f"{digest[:40]!r} for {count} items; send one item", field=contract.DIGEST
        )
    return digest


def _write_result(result: int | LensembleError, row: StoreRow) -> StoreResult | LensembleError:
    if isinstance(result, LensembleError):
        return result
    return StoreResult(result, carried=row.carried)
