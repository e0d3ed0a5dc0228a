"""A searcher: a snapshot, what was written since, and what was removed, one step behind no writer.

Before each search it asks the store whether anybody committed; if so it takes the news. So a write
that was acknowledged is found, and a removed item is not, by every process that has the store open.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble.index import Match
from lensemble.index.delta import Delta, Found, merged
from lensemble.index.kinds import faiss_module, selector
from lensemble.index.records import News
from lensemble.index.snapshot import DamagedError, Snapshot, names
from lensemble.index.store import Purged, Store
from lensemble_client.errors import StorageError

logger = logging.getLogger(__name__)

_SPARE = 16
_TRIES = 5


class LiveIndex:
    """A corpus that changes while it is searched; one caller at a time.

    Args:
        store: The truth.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = -1
        self._loader = ThreadPoolExecutor(1, "snapshot")
        self._loading: Future[Snapshot | None] | None = None
        self._refused = ""
        self._start()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens an index.

        Raises:
            InvalidInputError: There is none, or it is of another format.
            StorageError: The store is damaged. A damaged snapshot is no fault: it is left out.
        """
        return cls(Store.open(folder))

    def close(self) -> None:
        """Closes the store."""
        self._loader.shutdown(cancel_futures=True)
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manifest(self) -> dict[str, Any]:
        """See `Index.manifest`."""
        return {
            "kind": self._base.manifest.kind if self._base else "exact",
            "profile_name": self._store.profile_name,
            "profile_hash": self._store.profile_hash,
            "dimension": self._store.dimension,
            "count": len(self),
            "sequence": self._sequence,
            "snapshot": self._base.name if self._base else "",
            "delta": len(self._delta),
            "dead": int(np.count_nonzero(self._dead)),
        }

    def __len__(self) -> int:
        return len(self._dead) - int(np.count_nonzero(self._dead)) + len(self._delta)

    def search(self, queries: NDArray[np.float32], top_k: int) -> list[list[Match]]:
        """See `Index.search`.

        Raises:
            StorageError: The store is damaged.
        """
        for _ in range(_TRIES):
            self.refresh()
            scores, rows = self._nearest(queries, top_k)
            items = self._store.items(np.unique(rows[rows >= 0]).tolist())
            # A row that was removed and purged since the refresh is not among them.
            if all(row in items for row in rows[rows >= 0].tolist()):
                return [
                    [
                        Match(items[row][0], score, items[row][1])
                        for score, row in zip(*found, strict=True)
                        if row >= 0
                    ]
                    for found in zip(scores.tolist(), rows.tolist(), strict=True)
                ]
        raise StorageError("rows that were found are missing in the store", field="index")

    def refresh(self) -> None:
        """Takes what was committed since the last time, and a newer snapshot once it is loaded."""
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
        known = (self._base.name if self._base else "", self._refused)
        if current not in known and self._loading is None:
            self._loading = self._loader.submit(self._load, current)

    def _start(self) -> None:
        """From the newest snapshot that is whole, or from the store alone."""
        self._base: Snapshot | None = None
        current = self._store.snapshot
        candidates = [current, *(name for name in names(self._store.folder) if name != current)]
        for name in filter(None, candidates):
            if (snapshot := self._load(name)) is not None:
                self._base = snapshot
                break
        self._restart()

    def _restart(self) -> None:
        """From the snapshot and all that happened since; without it if that is not known."""
        try:
            self._begin()
        except Purged:  # only older snapshots are whole, and they miss tombstones
            self._base = None
            self._begin()

    def _begin(self) -> None:
        self._delta = Delta(self._store.dimension)
        self._dead = np.zeros(len(self._base.rows) if self._base else 0, np.bool_)
        self._removed = np.empty((0, 2), np.int64)  # row, sequence number of its removal
        self._sequence = self._base.manifest.sequence if self._base else 0
        self._apply(self._store.since(self._sequence))
        # `_removed` knows nothing of what was removed before that.
        self._complete_since = self._base.manifest.sequence if self._base else self._sequence

    def _load(self, name: str) -> Snapshot | None:
        try:
            return Snapshot.load(self._store.folder, name)
        except DamagedError as error:
            logger.error("%s", error)
            self._refused = name
            return None

    def _take_news(self) -> None:
        try:
            self._apply(self._store.since(self._sequence))
        except Purged:
            logger.warning("%s was purged past this searcher: starting again", self._store.folder)
            self._start()

    def _apply(self, news: News) -> None:
        for row in news.removed.tolist():
            if row in self._delta:
                self._delta.remove(row)
        if self._base is not None:
            self._dead[self._base.positions(news.removed)] = True
        gone = np.column_stack([news.removed, news.removed_at])
        self._removed = np.concatenate([self._removed, gone])
        self._delta.add(news.rows, news.vectors)
        self._sequence = news.sequence

    def _swap(self, snapshot: Snapshot) -> None:
        """Takes a newer snapshot in; the delta keeps what is not in it."""
        if self._base is not None and snapshot.manifest.sequence < self._base.manifest.sequence:
            return
        if snapshot.manifest.sequence < self._complete_since:
            self._base = snapshot
            self._restart()
            return
        newer = self._delta.rows > snapshot.manifest.last_row
        delta = Delta(self._store.dimension)
        delta.add(self._delta.rows[newer], self._delta.vectors[newer])
        dead = np.zeros(len(snapshot.rows), np.bool_)
        self._removed = self._removed[self._removed[:, 1] > snapshot.manifest.sequence]
        dead[snapshot.positions(self._removed[:, 0])] = True
        self._base, self._delta, self._dead = snapshot, delta, dead
        logger.info("snapshot %s, %d rows since", snapshot.name, len(delta))

    def _nearest(self, queries: NDArray[np.float32], k: int) -> Found:
        parts = [self._delta.search(queries, k)]
        dead = int(np.count_nonzero(self._dead))
        if dead < len(self._dead):
            parts.append(self._in_base(np.ascontiguousarray(queries, np.float32), k, dead))
        return merged(parts, k)

    def _in_base(self, queries: NDArray[np.float32], k: int, dead: int) -> Found:
        """Searches the snapshot for some more than asked, and drops what was removed."""
        assert self._base is not None
        faiss_module()
        k = min(k, len(self._dead) - dead)
        wanted = min(k + min(dead, k + _SPARE), len(self._dead))
        scores, at = self._base.index.search(queries, wanted)
        gone = (at < 0) | self._dead[at]
        short = (~gone).sum(axis=1) < k
        order = np.argsort(gone, axis=1, kind="stable")[:, :k]
        scores, at = np.take_along_axis(scores, order, 1), np.take_along_axis(at, order, 1)
        if short.any():
            params, _bits = selector(~self._dead)
            scores[short], at[short] = self._base.index.search(queries[short], k, params=params)
        return np.where(at >= 0, scores, -np.inf), np.where(at >= 0, self._base.rows[at], -1)
