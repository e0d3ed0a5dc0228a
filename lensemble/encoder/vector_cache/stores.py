"""Where the cache keeps vectors: in the memory of one process, or in a file that several share."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cachetools import LRUCache

from lensemble.vectors import Vector

logger = logging.getLogger(__name__)

# Memory of a vector besides its numbers in `LocalVectors`: key, array object, dictionary entries;
# rounded up.
_ENTRY_BYTES = 256

# LMDB keeps a value of more than about half a page in pages of its own, behind a header.
_PAGE_BYTES = 4096
_HEADER_BYTES = 16
# The file may grow to twice the capacity and this: pages that a transaction replaces stay in use
# until it is committed and no reader needs them.
_SPARE_BYTES = 16 * 1024**2
_GENERATIONS = (b"0", b"1")


class VectorStore(Protocol):
    """Vectors by the hash of their content; the ones that were not used for long are dropped."""

    @property
    def keeps_vectors(self) -> bool:
        """Whether it keeps any vectors."""

    @property
    def used_bytes(self) -> int:
        """Bytes that the vectors take in memory or in the file, rounded up."""

    def get(self, key: bytes) -> Vector | None:
        """Returns a vector (D,) float32 that cannot be written to, or None; keys have 32 bytes."""

    def put(self, key: bytes, vector: Vector) -> None:
        """Keeps a copy of a vector (D,) float32, unless it is too large for the store."""


class LocalVectors:
    """Keeps vectors in this process; the least recently used are dropped first.

    Args:
        capacity: bytes of memory; 0 keeps none.
    """

    def __init__(self, capacity: int) -> None:
        self._cache: LRUCache[bytes, Vector] = LRUCache(
            capacity, getsizeof=lambda vector: vector.nbytes + _ENTRY_BYTES
        )

    @property
    def keeps_vectors(self) -> bool:
        """See `VectorStore`."""
        return self._cache.maxsize > 0

    @property
    def used_bytes(self) -> int:
        """See `VectorStore`."""
        return int(self._cache.currsize)

    def get(self, key: bytes) -> Vector | None:
        """See `VectorStore`."""
        return self._cache.get(key)

    def put(self, key: bytes, vector: Vector) -> None:
        """See `VectorStore`."""
        if vector.nbytes + _ENTRY_BYTES > self._cache.maxsize:
            return
        copy = vector.copy()  # a row of a batch would keep the whole batch in memory
        copy.flags.writeable = False
        self._cache[key] = copy


class SharedVectors:
    """Keeps vectors in an LMDB file that the encoder processes of one server share.

    Vectors are in two generations. A new one goes into the young generation, and so does one of the
    old generation that is used. When the young generation has half of the capacity, the old one is
    dropped, and the young one becomes the old one. So a vector that is not used again is dropped
    after between half and the whole of the capacity was written.

    The file is a cache: it is not flushed to the disk. If a process is killed, LMDB's lock is
    released, and the others go on.

    Args:
        folder: folder of the file; created if missing. Processes with the same folder share it.
        capacity: bytes of the file for vectors, more than 0.
        profile_hash: hash of the profile; vectors of other profiles are not returned.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path, capacity: int, profile_hash: str) -> None:
        import lmdb

        self._capacity = capacity
        self._prefix = hashlib.sha256(profile_hash.encode()).digest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._environment: Any = lmdb.open(
                str(folder),
                map_size=2 * capacity + _SPARE_BYTES,
                max_dbs=3,
                sync=False,
                metasync=False,
                readahead=False,
            )
            with self._environment.begin(write=True) as transaction:
                self._state: Any = self._environment.open_db(b"state", transaction)
                self._databases: Any = [
                    self._environment.open_db(name, transaction) for name in _GENERATIONS
                ]
        except lmdb.Error as error:
            raise OSError(f"the vector cache in {folder} cannot be opened: {error}") from error
        self._error: type[Exception] = lmdb.Error

    keeps_vectors = True

    @property
    def used_bytes(self) -> int:
        """See `VectorStore`."""
        with self._environment.begin() as transaction:
            return sum(self._generation_bytes(transaction, n) for n in range(2))

    def get(self, key: bytes) -> Vector | None:
        """See `VectorStore`."""
        key = self._prefix + key
        try:
            with self._environment.begin() as transaction:
                young = self._young(transaction)
                content = transaction.get(key, db=self._databases[young])
                if content is not None:
                    return np.frombuffer(content, np.float32)
                content = transaction.get(key, db=self._databases[1 - young])
            if content is not None:
                self._write(key, content)
        except self._error as error:
            logger.warning("the shared vector cache cannot be read: %s", error)
            return None
        return None if content is None else np.frombuffer(content, np.float32)

    def put(self, key: bytes, vector: Vector) -> None:
        """See `VectorStore`."""
        try:
            self._write(self._prefix + key, vector.astype(np.float32, copy=False).tobytes())
        except self._error as error:
            logger.warning("the shared vector cache cannot be written: %s", error)

    def close(self) -> None:
        """Closes the file."""
        self._environment.close()

    def _write(self, key: bytes, content: bytes) -> None:
        size = -(-(len(content) + _HEADER_BYTES) // _PAGE_BYTES) * _PAGE_BYTES
        if 2 * size > self._capacity:
            return
        with self._environment.begin(write=True) as transaction:
            young = self._young(transaction)
            used = self._generation_bytes(transaction, young)
            if used + size > self._capacity // 2:
                young, used = 1 - young, 0
                transaction.drop(self._databases[young], delete=False)
                transaction.put(b"young", _GENERATIONS[young], db=self._state)
            if transaction.put(key, content, db=self._databases[young], overwrite=False):
                used += size
            transaction.put(_GENERATIONS[young], used.to_bytes(8, "little"), db=self._state)

    def _young(self, transaction: Any) -> int:
        return _GENERATIONS.index(transaction.get(b"young", _GENERATIONS[0], db=self._state))

    def _generation_bytes(self, transaction: Any, generation: int) -> int:
        content = transaction.get(_GENERATIONS[generation], b"", db=self._state)
        return int.from_bytes(content, "little")
