"""Searches a snapshot. Results contain no removed rows, and only rows that are allowed.

Scores are computed from the full-precision vectors. If FAISS finds too few rows, as IVF does with a
filter that few rows match, the query is compared with every allowed vector, so a search never
returns fewer rows than it could. A snapshot may have a copy on a GPU (`device_copy`). The CPU
searches whatever that copy cannot.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lensemble.index.search.faiss_search import FaissSearch
from lensemble.index.snapshots.exact_search import ScoredRows, merge_top_k, nearest_rows
from lensemble.index.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from lensemble.index.search.device_copy import SnapshotCopy

logger = logging.getLogger(__name__)

# If a filter allows at most this share of the snapshot, the query is compared with every allowed
# vector: IVF's recall would be low (0.85 at 1 %), and the comparison takes no longer.
SCAN_SHARE = 0.02
# If a filter allows at most this number of rows, the query is always compared with all of them.
SCAN_ROWS = 1000
# Size of the vectors that are read at a time when a query is compared with every allowed vector.
_SCAN_BYTES = 64 * 1024 * 1024
# Number of failures in a row after which a copy on a GPU is no longer searched.
_MAX_FAILURES = 3


class SnapshotSearch:
    """Searches a loaded snapshot, and knows which of its rows were removed after it was made.

    Args:
        snapshot: snapshot to search.
        device: `cpu`, or a GPU such as `cuda:0`, which searches if it can.
        reserved_bytes: size of the encoder's weights on this GPU, even if not yet loaded.

    Attributes:
        snapshot: snapshot to search.
        removed: (N,) bool, by position; True if the row was removed.
        lacks_memory: whether a copy on the GPU was not made for lack of memory.
    """

    def __init__(self, snapshot: Snapshot, device: str = "cpu", reserved_bytes: int = 0) -> None:
        self.snapshot = snapshot
        self.removed = np.zeros(len(snapshot.rows), np.bool_)
        self.lacks_memory = False
        self._on_cpu = FaissSearch(snapshot, snapshot.index)
        self._copy: SnapshotCopy | None = None
        self._failures = 0
        self._device, self._reserved_bytes = device, reserved_bytes
        self.copy_to_device()

    def copy_to_device(self) -> None:
        """Makes a copy on the GPU, if there is a GPU; another thread may search meanwhile."""
        if not self._device.startswith("cuda"):
            return
        import torch

        from lensemble.index.search.device_copy import CannotCopyError, copy_to_device

        name = self.snapshot.name
        try:
            self._copy = copy_to_device(
                self.snapshot, torch.device(self._device), self._reserved_bytes
            )
        except CannotCopyError as error:
            self.lacks_memory = error.lacks_memory
            logger.warning("snapshot %s is searched on the CPU: %s", name, error)
        else:
            self.lacks_memory = False
            logger.info("snapshot %s is searched on %s", name, self._device)

    def drop_copy(self) -> None:
        """Gives up the copy on the GPU, if there is one, and its memory."""
        if self._copy is None:
            return
        import torch

        self._copy = None
        with contextlib.suppress(RuntimeError):  # after a failure of the driver, every call fails
            torch.cuda.empty_cache()

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU searches."""
        return self._copy is not None

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return len(self.removed) - self.dead

    @property
    def dead(self) -> int:
        """Number of rows that were removed."""
        return int(np.count_nonzero(self.removed))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Marks rows (M,) as removed; rows that the snapshot lacks are ignored."""
        self.removed[self.snapshot.positions(rows)] = True

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """Finds the nearest rows.

        Args:
            queries: (B, D) float32.
            k: maximum number of rows per query.
            allowed: (N,) bool, by position; None allows all.
            parameters: parameters of the kind that replace those of the snapshot.
        """
        usable = ~self.removed if allowed is None else allowed & ~self.removed
        usable_count = int(np.count_nonzero(usable))
        k = min(k, usable_count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        # An exact search on a GPU reads everything in less time than a CPU gathers a few rows.
        exact_on_gpu = self.snapshot.kind.exact and self.is_on_gpu
        few = SCAN_ROWS if exact_on_gpu else max(SCAN_ROWS, SCAN_SHARE * len(usable))
        if allowed is not None and usable_count <= few:
            return self._scan(queries, k, usable)
        scores, positions = self._search(queries, k, usable, usable_count, parameters)
        too_few = (positions < 0).any(axis=1) & np.isfinite(queries).all(axis=1)
        rows = np.where(positions >= 0, self.snapshot.rows[positions], -1)
        if too_few.any():
            scores[too_few], rows[too_few] = self._scan(queries[too_few], k, usable)
        return scores, rows

    def _search(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        usable_count: int,
        parameters: Mapping[str, int] | None,
    ) -> ScoredRows:
        """Scores and positions from the GPU; from the CPU if there is no copy, or it fails."""
        copy = self._copy
        if copy is not None:
            try:
                found = copy.search(queries, k, usable, usable_count, parameters)
            except RuntimeError as error:  # PyTorch and FAISS: out of memory, or the driver failed
                self._note_failure(error)
            else:
                self._failures = 0
                return found
        return self._on_cpu.search(queries, k, usable, usable_count, parameters)

    def _note_failure(self, error: RuntimeError) -> None:
        self._failures += 1
        gives_up = self._failures >= _MAX_FAILURES
        if gives_up:
            self.drop_copy()
        logger.error(
            "the search of snapshot %s on %s failed, so the CPU searches %s: %s",
            self.snapshot.name,
            self._device,
            "it from now on" if gives_up else "for this batch",
            str(error).partition("\n")[0],
        )

    def _scan(self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_]) -> ScoredRows:
        """Compares the queries with every usable vector, in parts of at most 64 MiB."""
        positions = np.flatnonzero(usable)
        step = max(1, _SCAN_BYTES // (4 * queries.shape[1]))
        results = []
        for start in range(0, len(positions), step):
            part = positions[start : start + step]
            rows, vectors = self.snapshot.rows[part], self.snapshot.vectors[part]
            results.append(nearest_rows(queries, rows, vectors, k))
        return merge_top_k(results, k)
