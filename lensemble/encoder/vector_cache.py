"""The same content is encoded once: within a batch, and for as long as a cache remembers it.

A vector depends on nothing but the features: token ids (text and instruction are in them), patches
and grids. So they are the key, and no height, length, or file name is. `dimensions` cut the full
vector afterwards, and the profile is one per process.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensemble.preprocess.features import Features
from lensemble_contract.errors import LensembleError

Embedding = NDArray[np.float32]
Encode = Callable[[Sequence[Features], Sequence[int]], list[Embedding | LensembleError]]

_SAMPLE = 16
"""Patch rows that tell most pictures of one size apart."""
_ENTRY_BYTES = 256
"""Of a remembered vector beside its numbers: key, array, places in the dictionary; rounded up."""


@dataclass(slots=True)
class Counts:
    """Items so far, by where their vector came from.

    Attributes:
        encoded: The model.
        repeated: An equal item of the same batch.
        cached: The cache.
    """

    encoded: int = 0
    repeated: int = 0
    cached: int = 0


class Repeats:
    """Encodes each content once, and remembers vectors, least recently used ones go first.

    Errors are not remembered.

    Args:
        encode: Features and deadlines -> for each its full vector (D,) or its error.
        capacity: Bytes of memory for vectors; 0 remembers none.
    """

    def __init__(self, encode: Encode, capacity: int = 0) -> None:
        self._encode, self._capacity = encode, capacity
        self._known: OrderedDict[bytes, Embedding] = OrderedDict()
        self._used = 0
        self.counts = Counts()

    def __call__(
        self, items: Sequence[Features], deadlines: Sequence[int] | None = None
    ) -> list[Embedding | LensembleError]:
        """For each item, in order, its full vector (D,), float32, unit length, or its error.

        Args:
            items: To encode.
            deadlines: Of each, as of `contract.DEADLINE`; of equal items the last one counts.
        """
        keys = keys_of(items, exact=self._capacity > 0)
        found: dict[bytes, Embedding | LensembleError] = {
            key: self._known[key] for key in keys if key in self._known
        }
        wanted = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        self.counts.cached += sum(key in found for key in keys)
        self.counts.repeated += sum(key not in found for key in keys) - len(wanted)
        if wanted:
            until = _latest(keys, deadlines or [0] * len(keys))
            vectors = self._encode(list(wanted.values()), [until[key] for key in wanted])
            found.update(zip(wanted, vectors, strict=True))
            self.counts.encoded += sum(not isinstance(one, LensembleError) for one in vectors)
        if self._capacity:
            self._remember(found)
        return [found[key] for key in keys]

    def _remember(self, found: dict[bytes, Embedding | LensembleError]) -> None:
        for key, vector in found.items():
            if key in self._known:
                self._known.move_to_end(key)
            elif not isinstance(vector, LensembleError):
                kept = vector.copy()  # a row would hold on to its whole batch
                kept.flags.writeable = False
                self._known[key] = kept
                self._used += vector.nbytes + _ENTRY_BYTES
        while self._used > self._capacity:
            _, vector = self._known.popitem(last=False)
            self._used -= vector.nbytes + _ENTRY_BYTES


def _latest(keys: Sequence[bytes], deadlines: Sequence[int]) -> dict[bytes, int]:
    """Key -> the last deadline of its items; 0, never, is later than all others."""
    until: dict[bytes, int] = {}
    for key, deadline in zip(keys, deadlines, strict=True):
        before = until.setdefault(key, deadline)
        until[key] = max(before, deadline) if before and deadline else 0
    return until


def keys_of(items: Sequence[Features], *, exact: bool) -> list[bytes]:
    """Keys that are equal where the content is.

    Args:
        items: Of one batch.
        exact: Whether keys must hold beyond these items. If not, only items that might be equal
            are hashed as a whole.
    """
    if exact:
        return [content(item) for item in items]
    outlines = [_outline(item) for item in items]
    often = Counter(outlines)
    return [
        content(item) if item.patches.size and often[outline] > 1 else outline
        for item, outline in zip(items, outlines, strict=True)
    ]


def content(item: Features) -> bytes:
    """SHA-256 of all that an item's vector depends on."""
    digest = hashlib.sha256()
    for array in (item.input_ids, item.image_grid_thw, item.patches):
        digest.update(array.size.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _outline(item: Features) -> bytes:
    rows = item.patches[:: max(1, len(item.patches) // _SAMPLE)]
    sizes = len(item.input_ids).to_bytes(8, "little") + len(item.patches).to_bytes(8, "little")
    return sizes + item.input_ids.tobytes() + item.image_grid_thw.tobytes() + rows.tobytes()
