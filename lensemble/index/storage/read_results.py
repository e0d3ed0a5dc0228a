"""Results of reading a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item as the store keeps it.

    Attributes:
        row: row number of the item.
        id: the caller's id.
        document: JSON text of an object.
        vector: (D,) float32, unit length.
        sequence: sequence number of the change that wrote it.
        digest: see `Upsert.digest`.
    """

    row: int
    id: str
    document: str
    vector: NDArray[np.float32]
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class StoreChanges:
    """The changes after a sequence number.

    Attributes:
        sequence: sequence number of the last of these changes.
        rows: (N,) int64, ascending; rows that were written and are still live.
        vectors: (N, D) float32, the vectors of `rows`.
        removed: (M,) int64, rows that were removed, in the order of their removal. Rows that were
            both written and removed after the sequence number are among them, because a newer
            snapshot may contain them.
        removed_at: (M,) int64, sequence numbers of the removals.
    """

    sequence: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    removed: NDArray[np.int64]
    removed_at: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoreContents:
    """All live rows at one sequence number: the input of a snapshot.

    Attributes:
        sequence: sequence number of the last change.
        last_row: highest row number that had been used at that sequence number.
        rows: (N,) int64, ascending.
        vectors: (N, D) float32, the vectors of `rows`.
    """

    sequence: int
    last_row: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
