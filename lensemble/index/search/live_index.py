"""The searcher: an index that is searched while other processes write to it.

Before each batch of queries it asks the store whether another process has committed changes, and
applies them. So after a write is acknowledged, the next search of every process that has the index
open finds the item, and the next search after a removal no longer finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index.checks import check_profile
from lensemble.index.query import IndexHit, IndexHits, Query
from lensemble.index.search.filter_cache import FilterCache, FilterRows
from lensemble.index.search.index_state import IndexState
from lensemble.index.search.resolved_query import (
    ResolvedQuery,
    resolve,
    search_resolved,
    warnings_of,
)
from lensemble.index.search.snapshot_search import SnapshotSearch
from lensemble.index.snapshots.manifest import newest_snapshot_sequence
from lensemble.index.snapshots.snapshot import DamagedSnapshotError, Snapshot
from lensemble.index.storage.reader import TombstonesPurgedError
from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 5  # number of times that a batch is searched before it fails


class LiveIndex:
    """An index that changes while it is searched; one caller at a time may use it.

    Args:
        store: the index's store; closed by `close`.
        device: `cpu`, or a GPU such as `cuda:0` for snapshots.
        profile_hash: hash of the profile of the queries; empty skips the check.
        reserved_bytes: size of the encoder's weights on this GPU, even if not yet loaded.

    Raises:
        InvalidInputError: The index was built under another profile.
        StorageError: The store is damaged.
    """

    # `_use_store` sets these at the start, and again whenever the index is replaced.
    _store: Store
    _filters: FilterCache
    _data_version: int  # the store's, when changes were last applied; -1 before the first `refresh`
    _damaged_snapshot: str  # name of a snapshot that could not be loaded; empty if there is none
    _loading: Future[SnapshotSearch | None] | None  # the load of the store's current snapshot
    _state: IndexState

    def __init__(
        self, store: Store, device: str = "cpu", profile_hash: str = "", reserved_bytes: int = 0
    ) -> None:
        self._device, self._profile_hash = device, profile_hash
        self._reserved_bytes = reserved_bytes
        self._loader = ThreadPoolExecutor(1, "snapshot")
        self._use_store(store)

    @classmethod
    def open(
        cls, folder: Path, device: str = "cpu", profile_hash: str = "", reserved_bytes: int = 0
    ) -> Self:
        """Opens an index.

        Args:
            folder: folder of the index.
            device: see `LiveIndex`.
            profile_hash: see `LiveIndex`.
            reserved_bytes: see `LiveIndex`.

        Raises:
            InvalidInputError: There is no index, or one of another format or profile.
            StorageError: The store is damaged. A damaged snapshot raises no error; it is not used.
        """
        newest = newest_snapshot_sequence(folder)
        store = Store.open(folder)
        try:
            if store.sequence < newest:
                logger.error(
                    "index %s has lost changes %d to %d: a snapshot has them, but the store does "
                    "not (its WAL file was cut, or an older file was put in its place); restore a "
                    "backup, or write the items again",
                    folder,
                    store.sequence + 1,
                    newest,
                )
            return cls(store, device, profile_hash, reserved_bytes)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Closes the store."""
        self._loader.shutdown(cancel_futures=True)
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dimension(self) -> int:
        """Length D of the vectors."""
        return self._store.dimension

    @property
    def manifest(self) -> dict[str, Any]:
        """See `Index.manifest`."""
        snapshot_search = self._state.snapshot_search
        manifest = snapshot_search.snapshot.manifest if snapshot_search else None
        return {
            "kind": manifest.kind if manifest else "exact",
            "parameters": manifest.parameters if manifest else {},
            "recall_at_10": manifest.recall_at_10 if manifest else 1.0,
            "profile_name": self._store.profile_name,
            "profile_hash": self._store.profile_hash,
            "dimension": self._store.dimension,
            "count": len(self),
            "sequence": self._state.sequence,
            "snapshot": self._state.snapshot_name,
            "delta": len(self._state.delta),
            "dead": snapshot_search.dead if snapshot_search else 0,
            "on_gpu": snapshot_search.is_on_gpu if snapshot_search else False,
        }

    def __len__(self) -> int:
        """Number of live items."""
        return len(self._state)

    def search(self, queries: NDArray[np.float32], top_k: int) -> list[IndexHits]:
        """Finds the nearest items to vectors.

        Args:
            queries: (B, D) float32, unit length.
            top_k: maximum number of hits per query.

        Raises:
            StorageError: The store is damaged.
            InvalidInputError: A query has another dimension, or a value that is not finite.
        """
        hits = []
        for result in self.answer([Query(vector, top_k) for vector in queries]):
            if isinstance(result, LensembleError):
                raise result
            hits.append(result)
        return hits

    def answer(self, queries: Sequence[Query]) -> list[IndexHits | LensembleError]:
        """See `Index.answer`."""
        for _ in range(_MAX_ATTEMPTS):
            resolved = self._read_for_queries(queries)  # this may replace `_state`
            results = search_resolved(self._state, resolved)
            rows = {
                row
                for result in results
                if not isinstance(result, LensembleError)
                for _, row in result
            }
            items = self._store.ids_and_documents(sorted(rows))
            # Search again if a row is missing: other processes have removed and purged it since
            # `_read_for_queries`.
            if rows <= items.keys():
                return [
                    result
                    if isinstance(result, LensembleError)
                    else IndexHits(
                        (IndexHit(items[row][0], score, items[row][1]) for score, row in result),
                        warnings_of(query),
                    )
                    for query, result in zip(resolved, results, strict=True)
                ]
        raise StorageError(
            f"in each of {_MAX_ATTEMPTS} attempts, rows that the search found were purged before "
            "they were read; try again",
            field="index",
        )

    def refresh(self) -> None:
        """Applies changes committed since the last call, and switches to a newly loaded snapshot.

        Raises:
            InvalidInputError: The index was replaced by one of another profile.
            StorageError: The store is damaged.
        """
        if self._store.is_replaced:
            self._switch_store()
        if self._loading is not None and self._loading.done():
            loaded, self._loading = self._loading, None
            if (snapshot_search := loaded.result()) is not None:
                # The snapshot may contain changes that the state has not seen yet.
                self._apply_changes()
                self._switch_snapshot(snapshot_search)
        version = self._store.data_version
        if version == self._data_version:
            return
        self._apply_changes()
        self._data_version = version
        current = self._store.snapshot
        known = (self._state.snapshot_name, self._damaged_snapshot)
        if current not in known and self._loading is None:
            self._loading = self._loader.submit(self._load, self._store.folder, current)

    def _use_store(self, store: Store) -> None:
        """Starts from the store's newest intact snapshot, or without one.

        Raises:
            InvalidInputError: The index was built under another profile.
            StorageError: The store is damaged.
        """
        if self._profile_hash:
            check_profile(store.profile_name, store.profile_hash, self._profile_hash)
        self._store = store
        self._filters = FilterCache(store)
        self._data_version, self._damaged_snapshot, self._loading = -1, "", None
        self._state = self._read_state()

    def _read_state(self) -> IndexState:
        # Only the two snapshots that the store names may be loaded. The folder may contain others,
        # with changes that the store has lost; their row numbers now belong to other items.
        folder, state = self._store.folder, self._store.state
        for name in filter(None, (state.snapshot, state.previous)):
            if (snapshot_search := self._load(folder, name)) is not None:
                return IndexState.read(self._store, snapshot_search)
        return IndexState.read(self._store, None)

    def _load(self, folder: Path, name: str) -> SnapshotSearch | None:
        try:
            return SnapshotSearch(Snapshot.load(folder, name), self._device, self._reserved_bytes)
        except DamagedSnapshotError as error:
            logger.error("%s", error)
            self._damaged_snapshot = name
            return None

    def _apply_changes(self) -> None:
        try:
            self._state.apply(self._store.changes_since(self._state.sequence))
        except TombstonesPurgedError:
            logger.warning(
                "%s: tombstones that this searcher has not seen were purged; it reads the index "
                "again",
                self._store.folder,
            )
            self._state = self._read_state()

    def _switch_snapshot(self, snapshot_search: SnapshotSearch) -> None:
        """Switches to a loaded snapshot, unless the state has a newer one meanwhile."""
        snapshot = snapshot_search.snapshot
        if snapshot.manifest.sequence < self._state.snapshot_sequence:
            return
        if (old := self._state.snapshot_search) is not None:
            old.drop_copy()
        if self._state.can_switch_to(snapshot_search):
            self._state.switch_snapshot(snapshot_search)
        else:
            self._state = IndexState.read(self._store, snapshot_search)
        if snapshot_search.lacks_memory:  # there may be enough without the old snapshot's copy
            self._loader.submit(snapshot_search.copy_to_device)
        logger.info(
            "switched to snapshot %s; %d rows were written after it",
            snapshot.name,
            len(self._state.delta),
        )

    def _switch_store(self) -> None:
        """Switches to the index that has replaced the open one."""
        old, old_filters = self._store, self._filters
        new = Store.open(old.folder)
        try:
            self._use_store(new)
        except BaseException:  # keep the old one; the next search tries again
            self._store, self._filters = old, old_filters
            new.close()
            raise
        old.close()
        logger.warning("%s was replaced; this searcher now uses the new index", new.folder)

    def _read_for_queries(self, queries: Sequence[Query]) -> list[ResolvedQuery | LensembleError]:
        """Applies new changes, and reads what the queries need at the same sequence number."""
        self.refresh()
        filters = {query.filter for query in queries if query.filter}
        uses_ids = any(query.exclude or query.like for query in queries)
        matching: dict[str, FilterRows | LensembleError] = {}
        for text in filters:
            if (rows := self._filters.cached(text, self._state.sequence)) is not None:
                matching[text] = rows
        if not uses_ids and len(matching) == len(filters):  # nothing is read from the store
            return [resolve(self._store, query, matching.get(query.filter)) for query in queries]
        with self._store.reading():
            if self._store.sequence != self._state.sequence:  # committed since `refresh`
                self._apply_changes()
            for text in filters:
                try:
                    matching[text] = self._filters.update(text, self._state.sequence)
                except InvalidInputError as error:
                    matching[text] = error
            return [resolve(self._store, query, matching.get(query.filter)) for query in queries]
