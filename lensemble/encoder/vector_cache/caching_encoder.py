"""Encodes equal items once: within one batch, and for as long as the cache remembers them.

A vector depends only on an item's features: its token ids (which contain text and instruction), its
patches and its grids. So these are hashed, and nothing else such as a file's name. The cache holds
full vectors; callers cut them to `dimensions`. One process serves one profile.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lensemble.encoder.vector_cache.stores import LocalVectors, VectorStore
from lensemble.preprocess.features import Features
from lensemble.scheduling.deadline import later
from lensemble.vectors import Vector
from lensemble_contract.errors import LensembleError

# Waits for the vectors or errors of started items.
WaitForResults = Callable[[], list[Vector | LensembleError]]
# Starts to encode items, each with its deadline.
Start = Callable[[Sequence[Features], Sequence[int]], WaitForResults]

# Number of an item's patches in its cheap key: at least this many, and fewer than twice as many (or
# all, if the item has fewer). They tell most pictures of one size apart.
_SAMPLED_ROWS = 16


@dataclass(slots=True)
class VectorCounts:
    """Numbers of items by the source of their vector.

    Attributes:
        encoded: items that the model encoded.
        repeated: items equal to an earlier one of the same batch, and not in the cache.
        cached: items whose vector was in the cache.
    """

    encoded: int = 0
    repeated: int = 0
    cached: int = 0


class CachingEncoder:
    """Encodes equal items once, and remembers vectors.

    Errors are not cached. Not safe for calls from several threads at once.

    Args:
        start: function that starts to encode features with deadlines, and returns a function that
            waits for each item's full vector (D,) or its error.
        store: where vectors are kept; None keeps none.

    Attributes:
        counts: numbers of items by the source of their vector.
    """

    def __init__(self, start: Start, store: VectorStore | None = None) -> None:
        self._start, self._store = start, store or LocalVectors(0)
        self.counts = VectorCounts()

    @property
    def used_bytes(self) -> int:
        """Bytes of memory that cached vectors take."""
        return self._store.used_bytes

    def __call__(
        self, items: Sequence[Features], deadlines: Sequence[int] | None = None
    ) -> list[Vector | LensembleError]:
        """Encodes items.

        Args:
            items: features of the items.
            deadlines: deadline of each item, as in `contract.DEADLINE`; for equal items the latest
                one counts.

        Returns:
            For each item, in order, its full vector (D,), float32, unit length, or its error.
        """
        return self.start(items, deadlines)()

    def start(
        self, items: Sequence[Features], deadlines: Sequence[int] | None = None
    ) -> WaitForResults:
        """Begins to encode items, and returns a function that waits for the result.

        Items that are equal to those of an earlier call which still runs are encoded again.

        Args:
            items: as for a call.
            deadlines: as for a call.
        """
        keys = content_keys(items, valid_beyond_batch=self._store.keeps_vectors)
        results: dict[bytes, Vector | LensembleError] = {}
        if self._store.keeps_vectors:
            for key in set(keys):
                if (cached := self._store.get(key)) is not None:
                    results[key] = cached
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in results}
        self.counts.cached += sum(key in results for key in keys)
        self.counts.repeated += sum(key not in results for key in keys) - len(missing)
        latest = _latest_deadlines(keys, deadlines or [0] * len(keys))
        wait_for_missing: WaitForResults = list  # `list()` is the empty list of results
        if missing:
            wait_for_missing = self._start(list(missing.values()), [latest[key] for key in missing])

        def wait() -> list[Vector | LensembleError]:
            for key, result in zip(missing, wait_for_missing(), strict=True):
                results[key] = result
                if not isinstance(result, LensembleError):
                    self.counts.encoded += 1
                    self._store.put(key, result)
            return [results[key] for key in keys]

        return wait


def content_keys(items: Sequence[Features], *, valid_beyond_batch: bool) -> list[bytes]:
    """Returns a key for each item; two keys are equal if and only if the items' content is equal.

    Args:
        items: features of one batch.
        valid_beyond_batch: whether the keys will be compared with those of other batches. If not,
            the whole content of an item with pictures is hashed only if another item has the same
            cheap key; a text's cheap key is its content.
    """
    if valid_beyond_batch:
        return [features_hash(item) for item in items]
    cheap_keys = [_cheap_key(item) for item in items]
    occurrences = Counter(cheap_keys)
    return [
        features_hash(item) if item.patches.size and occurrences[cheap_key] > 1 else cheap_key
        for item, cheap_key in zip(items, cheap_keys, strict=True)
    ]


def features_hash(item: Features) -> bytes:
    """Returns the SHA-256 of everything that an item's vector depends on."""
    digest = hashlib.sha256()
    for array in (item.input_ids, item.image_grid_thw, item.patches):
        digest.update(array.size.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _cheap_key(item: Features) -> bytes:
    """Returns all of the content except for the patches, of which it samples some rows."""
    rows = item.patches[:: max(1, len(item.patches) // _SAMPLED_ROWS)]
    sizes = len(item.input_ids).to_bytes(8, "little") + len(item.patches).to_bytes(8, "little")
    return sizes + item.input_ids.tobytes() + item.image_grid_thw.tobytes() + rows.tobytes()


def _latest_deadlines(keys: Sequence[bytes], deadlines: Sequence[int]) -> dict[bytes, int]:
    """Returns the latest deadline for each key."""
    latest: dict[bytes, int] = {}
    for key, deadline in zip(keys, deadlines, strict=True):
        latest[key] = later(latest.get(key, deadline), deadline)
    return latest
