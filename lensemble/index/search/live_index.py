"""A searcher: a snapshot, what was written since, and what was removed, one step behind no writer.

Before each search it asks the store whether anybody committed; if so it takes the news. So a write
that was acknowledged is found, and a removed item is not, by every process that has the store open.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index import check_profile, check_query
from lensemble.index.query import IndexHit, Query
from lensemble.index.search.delta import Delta
from lensemble.index.search.filter_cache import FilterCache
from lensemble.index.search.snapshot_search import SnapshotSearch
from lensemble.index.snapshots.exact import ScoredRows, merged
from lensemble.index.snapshots.snapshot import DamagedError, Snapshot, newest_snapshot_sequence
from lensemble.index.storage.records import StoreChanges
from lensemble.index.storage.store import Store, TombstonesPurgedError
from lensemble_contract.errors import InvalidInputError, LensembleError, NotFoundError, StorageError

logger = logging.getLogger(__name__)

_TRIES = 5


@dataclass(frozen=True, slots=True)
class _ResolvedQuery:
    """A query with what it needed from the store.

    Attributes:
        query: As it was asked.
        vector: (D,) float32.
        excluded: Rows that are not to be found.
    """

    query: Query
    vector: NDArray[np.float32]
    excluded: frozenset[int]


class LiveIndex:
    """A corpus that changes while it is searched; one caller at a time.

    Args:
        store: The truth.
        device: `cpu`, or `cuda:0` and the like for snapshots on that GPU.
        profile_hash: What queries are made under; empty is not checked.

    Raises:
        InvalidInputError: The index was built under another profile.
    """

    def __init__(self, store: Store, device: str = "cpu", profile_hash: str = "") -> None:
        self._store = store
        self._device, self._profile_hash = device, profile_hash
        self._version, self._refused = -1, ""
        self._loading: Future[SnapshotSearch | None] | None = None
        self._loader = ThreadPoolExecutor(1, "snapshot")
        self._take_up(store)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", profile_hash: str = "") -> Self:
        """Opens an index.

        Args:
            folder: Of the index.
            device: See above.
            profile_hash: See above.

        Raises:
            InvalidInputError: There is none, it is of another format, or was built under another
                profile.
            StorageError: The store is damaged. A damaged snapshot is no fault: it is left out.
        """
        newest = newest_snapshot_sequence(folder)
        store = Store.open(folder)
        try:
            if store.sequence < newest:
                logger.error(
                    "index %s lost changes %d to %d: a snapshot was made of them, and the store "
                    "ends before (its log was cut, or an older file put back); restore a backup, "
                    "or write them again",
                    folder,
                    store.sequence + 1,
                    newest,
                )
            return cls(store, device, profile_hash)
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
        """Length of the vectors."""
        return self._store.dimension

    @property
    def manifest(self) -> dict[str, Any]:
        """See `Index.manifest`."""
        made = self._base.snapshot.manifest if self._base else None
        return {
            "kind": made.kind if made else "exact",
            "parameters": made.parameters if made else {},
            "recall_at_10": made.recall_at_10 if made else 1.0,
            "profile_name": self._store.profile_name,
            "profile_hash": self._store.profile_hash,
            "dimension": self._store.dimension,
            "count": len(self),
            "sequence": self._sequence,
            "snapshot": self._snapshot_name,
            "delta": len(self._delta),
            "dead": len(self._base.removed) - self._base.live if self._base else 0,
        }

    def __len__(self) -> int:
        return (self._base.live if self._base else 0) + len(self._delta)

    def search(self, queries: NDArray[np.float32], top_k: int) -> list[list[IndexHit]]:
        """Finds the nearest items to plain vectors.

        Args:
            queries: (B, D) float32, unit length.
            top_k: How many at most.

        Raises:
            StorageError: The store is damaged.
        """
        found = []
        for result in self.answer([Query(vector, top_k) for vector in queries]):
            if isinstance(result, LensembleError):
                raise result
            found.append(result)
        return found

    def answer(self, queries: Sequence[Query]) -> list[list[IndexHit] | LensembleError]:
        """See `Index.answer`."""
        for _ in range(_TRIES):
            asked = self._prepare(queries)
            found = self._found(asked)
            rows = {
                row
                for result in found
                if not isinstance(result, LensembleError)
                for _, row in result
            }
            items = self._store.items(sorted(rows))
            # A row that was removed and purged since the refresh is not among them.
            if rows <= items.keys():
                self._matching.forget_oldest()
                return [
                    result
                    if isinstance(result, LensembleError)
                    else [IndexHit(items[row][0], score, items[row][1]) for score, row in result]
                    for result in found
                ]
        raise StorageError("rows that were found are missing in the store", field="index")

    def refresh(self) -> None:
        """Takes what was committed since the last time, and a newer snapshot once it is loaded.

        Raises:
            InvalidInputError: Another index stands in this one's place, of another profile.
            StorageError: The store is damaged.
        """
        if self._store.replaced:
            old, store = self._store, Store.open(self._store.folder)
            try:
                self._take_up(store)
            except BaseException:  # the next search tries again
                self._store = old
                store.close()
                raise
            old.close()
            logger.warning("%s was replaced: went over to the new index", store.folder)
        if self._loading is not None and self._loading.done():
            loaded, self._loading = self._loading.result(), None
            if loaded is not None:
                self._take_news()
                self._swap(loaded)
        version = self._store.version
        if version == self._version:
            return
        self._take_news()
        self._version = version
        current = self._store.snapshot
        if current not in (self._snapshot_name, self._refused) and self._loading is None:
            self._loading = self._loader.submit(self._load, self._store.folder, current)

    @property
    def _snapshot_name(self) -> str:
        return self._base.snapshot.name if self._base else ""

    def _take_up(self, store: Store) -> None:
        """Begins with a store."""
        if self._profile_hash:
            check_profile(store.profile_name, store.profile_hash, self._profile_hash)
        self._store = store
        self._matching = FilterCache(store)
        self._version, self._refused, self._loading = -1, "", None
        self._start()

    def _prepare(self, queries: Sequence[Query]) -> list[_ResolvedQuery | LensembleError]:
        """Takes the news, and all that queries need from the store, as of one moment."""
        filters = {query.filter for query in queries if query.filter}
        named = any(query.exclude or query.like for query in queries)
        self.refresh()
        refused: dict[str, LensembleError] = {}
        if not named and all(self._matching.is_known(text, self._sequence) for text in filters):
            return [self._asked(query, refused) for query in queries]
        with self._store.reading():
            if self._store.sequence != self._sequence:  # somebody committed since
                self._take_news()
            for text in filters:
                try:
                    self._matching.follow(text, self._sequence)
                except InvalidInputError as error:
                    refused[text] = error
            return [self._asked(query, refused) for query in queries]

    def _asked(
        self, query: Query, refused: Mapping[str, LensembleError]
    ) -> _ResolvedQuery | LensembleError:
        if query.filter in refused:
            return refused[query.filter]
        vector, excluded = query.vector, list(query.exclude)
        if query.like:
            (record,) = self._store.get([query.like])
            if record is None:
                return NotFoundError(f"no item {query.like!r} in the index", field="like")
            vector = record.vector
            excluded.append(query.like)
        assert vector is not None
        try:
            check_query(self.dimension, vector)
        except InvalidInputError as error:  # another index was put in place since it was read
            return error
        rows = frozenset(self._store.rows_of(excluded).values()) if excluded else frozenset()
        return _ResolvedQuery(query, vector, rows)

    def _found(
        self, asked: Sequence[_ResolvedQuery | LensembleError]
    ) -> list[list[tuple[float, int]] | LensembleError]:
        """Scores and rows, best first; queries with one filter are searched together."""
        found: list[list[tuple[float, int]] | LensembleError] = [
            one if isinstance(one, LensembleError) else [] for one in asked
        ]
        groups: dict[str, list[int]] = {}
        for n, one in enumerate(asked):
            if isinstance(one, _ResolvedQuery):
                groups.setdefault(one.query.filter, []).append(n)
        for text, members in groups.items():
            some = [one for n in members if isinstance(one := asked[n], _ResolvedQuery)]
            k = max(one.query.top_k + len(one.excluded) for one in some)
            vectors = np.stack([one.vector for one in some])
            scores, rows = self._nearest(vectors, k, text)
            for n, one, line, places in zip(
                members, some, scores.tolist(), rows.tolist(), strict=True
            ):
                pairs: Iterable[tuple[float, int]] = zip(line, places, strict=True)
                if one.excluded or one.query.min_score > -1:
                    pairs = (
                        (score, row)
                        for score, row in pairs
                        if score >= one.query.min_score and row not in one.excluded
                    )
                found[n] = [pair for pair in pairs if pair[1] >= 0][: one.query.top_k]
        return found

    def _nearest(self, queries: NDArray[np.float32], k: int, text: str) -> ScoredRows:
        among = self._matching.among(text, self._delta.rows) if text else None
        parts = [self._delta.search(queries, k, among)]
        if self._base is not None:
            allowed = self._matching.in_snapshot(text, self._base.snapshot) if text else None
            parts.append(self._base.search(queries, k, allowed))
        return merged(parts, k)

    def _start(self) -> None:
        """From the newest snapshot that is whole, or from the store alone."""
        self._base: SnapshotSearch | None = None
        # Others may lie there, of a state that the store has lost: their rows mean other items.
        folder, state = self._store.folder, self._store.state
        for name in filter(None, (state.snapshot, state.previous)):
            if (base := self._load(folder, name)) is not None:
                self._base = base
                break
        self._restart()

    def _restart(self) -> None:
        """From the snapshot and all that happened since; without it if that is not known."""
        try:
            self._begin()
        except TombstonesPurgedError:  # only older snapshots are whole, and they miss tombstones
            self._base = None
            self._begin()

    def _begin(self) -> None:
        self._delta = Delta(self._store.dimension)
        if self._base is not None:
            self._base.removed[:] = False
        self._removed = np.empty((0, 2), np.int64)  # row, sequence number of its removal
        self._sequence = self._base.snapshot.manifest.sequence if self._base else 0
        self._apply(self._store.since(self._sequence))
        # `_removed` knows nothing of what was removed before that.
        self._complete_since = (
            self._base.snapshot.manifest.sequence if self._base else self._sequence
        )

    def _load(self, folder: Path, name: str) -> SnapshotSearch | None:
        try:
            return SnapshotSearch(Snapshot.load(folder, name), self._device)
        except DamagedError as error:
            logger.error("%s", error)
            self._refused = name
            return None

    def _take_news(self) -> None:
        try:
            self._apply(self._store.since(self._sequence))
        except TombstonesPurgedError:
            logger.warning("%s was purged past this searcher: starting again", self._store.folder)
            self._start()

    def _apply(self, news: StoreChanges) -> None:
        for row in news.removed.tolist():
            if row in self._delta:
                self._delta.remove(row)
        if self._base is not None:
            self._base.remove(news.removed)
        gone = np.column_stack([news.removed, news.removed_at])
        self._removed = np.concatenate([self._removed, gone])
        self._delta.add(news.rows, news.vectors)
        self._sequence = news.sequence

    def _swap(self, base: SnapshotSearch) -> None:
        """Takes a newer snapshot in; the delta keeps what is not in it."""
        manifest = base.snapshot.manifest
        if self._base is not None and manifest.sequence < self._base.snapshot.manifest.sequence:
            return
        if manifest.sequence < self._complete_since:
            self._base = base
            self._restart()
            return
        newer = self._delta.rows > manifest.last_row
        delta = Delta(self._store.dimension)
        delta.add(self._delta.rows[newer], self._delta.vectors[newer])
        self._removed = self._removed[self._removed[:, 1] > manifest.sequence]
        base.remove(self._removed[:, 0])
        self._base, self._delta = base, delta
        logger.info("snapshot %s, %d rows since", base.snapshot.name, len(delta))
