"""Vectors as they are made, on the disk, so that work that was broken off goes on where it was.

vectors.f32     the vectors, (N, D) float32, one after another
done.jsonl      a line for each, in the same order: digest of what it was made of, checksum; and
                lines for what the server refused, with the reason
settings.json   what all the vectors have in common
lock            held while somebody writes

Both of the first two are only added to, vectors first, each synced. What a killed process left of
the last lines is cut off; a line without its whole vector counts for nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError, from_wire

VECTORS, DONE, SETTINGS, LOCK = "vectors.f32", "done.jsonl", "settings.json", "lock"
_AT_A_TIME = 1024
_SYNC_ROWS, _SYNC_S = 256, 2.0
"""After so many rows, or seconds, what was added is synced."""


@dataclass(frozen=True, slots=True)
class Making:
    """What all vectors of a journal have in common.

    Attributes:
        profile: Hash of the profile that they were made under.
        dimension: Their length.
        asked: `dimensions` of the requests; None for the profile's full length.
        embedder: Which one made them.
    """

    profile: str
    dimension: int
    asked: int | None
    embedder: str


class Journal:
    """An open journal; one process at a time, a context manager.

    Args:
        folder: Of its files; made if missing.

    Attributes:
        making: What the vectors have in common; None before the first.

    Raises:
        InvalidInputError: Another process is at work on it, or it is of another format.
        StorageError: The files cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.making: Making | None = None
        self._known: dict[bytes, int] = {}
        self._refused: dict[bytes, str] = {}
        self._count = 0
        self._waiting: tuple[list[bytes], list[bytes]] = ([], [])
        self._synced = time.monotonic()
        self._files: list[IO[bytes]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK).open("wb")
            self._files.append(lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open()
        except BlockingIOError as error:
            self._close()
            raise InvalidInputError(
                f"another process is at work on {str(folder.parent)!r}; wait for it", field="out"
            ) from error
        except OSError as error:
            self._close()
            raise _fault(folder, error) from error
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._close()

    def clear(self) -> None:
        """Forgets all of it.

        Raises:
            StorageError: The files cannot be written.
        """
        try:
            self._cut(0, 0)
            (self._folder / SETTINGS).unlink(missing_ok=True)
        except OSError as error:
            raise _fault(self._folder, error) from error
        self.making, self._count = None, 0
        self._known.clear()
        self._refused.clear()

    def begin(self, making: Making) -> None:
        """Says what the vectors will have in common, before the first.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            write_whole(self._folder / SETTINGS, json.dumps(asdict(making)) + "\n")
        except OSError as error:
            raise _fault(self._folder, error) from error
        self.making = making

    def find(self, digest: bytes) -> int | LensembleError | None:
        """What is known of an item: its vector's place, why it was refused, or nothing.

        Args:
            digest: Of what it is made of, 16 bytes.
        """
        if digest in self._refused:
            return from_wire(None, self._refused[digest])
        return self._known.get(digest)

    def add(self, digest: bytes, vector: NDArray[np.float32]) -> int:
        """Keeps a vector.

        Args:
            digest: Of what it was made of, 16 bytes.
            vector: (D,).

        Returns:
            Its place.

        Raises:
            StorageError: It cannot be written.
        """
        blob = np.ascontiguousarray(vector, np.float32).tobytes()
        self._waiting[0].append(blob)
        self._note({"digest": digest.hex(), "crc": zlib.crc32(blob)})
        self._known[digest] = self._count
        self._count += 1
        return self._count - 1

    def refuse(self, digest: bytes, error: LensembleError) -> None:
        """Keeps why an item has no vector, so that it is not sent again.

        Args:
            digest: Of what it is made of, 16 bytes.
            error: Of the server.

        Raises:
            StorageError: It cannot be written.
        """
        self._refused[digest] = error.to_wire()
        self._note({"digest": digest.hex(), "error": error.to_wire()})

    def flush(self) -> None:
        """Waits until all that was added is on the disk.

        Raises:
            StorageError: It cannot be written.
        """
        blobs, lines = self._waiting
        self._waiting = ([], [])  # written once or never: a second try would write a part twice
        self._synced = time.monotonic()
        try:
            for file, parts in (
                (self._vectors, blobs),
                (self._done, lines),
            ):
                if parts:
                    file.write(b"".join(parts))
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise _fault(self._folder, error) from error

    def read(self, places: array[int]) -> Iterator[NDArray[np.float32]]:
        """Vectors by their places.

        Args:
            places: N of them.

        Returns:
            (n, D) float32, some at a time, in the order of the places.

        Raises:
            StorageError: They cannot be written.
        """
        self.flush()
        if self.making is None or not len(places):
            return
        shape = (self._count, self.making.dimension)
        mapped = np.memmap(self._folder / VECTORS, np.float32, "r", shape=shape)
        for start in range(0, len(places), _AT_A_TIME):
            yield np.asarray(mapped[np.array(places[start : start + _AT_A_TIME])])

    def _note(self, said: dict[str, Any]) -> None:
        self._waiting[1].append(json.dumps(said).encode() + b"\n")
        if len(self._waiting[1]) >= _SYNC_ROWS or time.monotonic() - self._synced > _SYNC_S:
            self.flush()

    def _open(self) -> None:
        # Kept open to the end: `__exit__` closes them.
        self._vectors = (self._folder / VECTORS).open("ab+")
        self._files.append(self._vectors)
        self._done = (self._folder / DONE).open("ab+")
        self._files.append(self._done)
        path = self._folder / SETTINGS
        if path.exists():
            try:
                self.making = Making(**json.loads(path.read_text()))
            except (TypeError, ValueError) as error:
                raise InvalidInputError(
                    f"{str(path)!r} is of another format ({error}); remove {str(self._folder)!r}, "
                    "and all is embedded again",
                    field="out",
                ) from error
        good = self._recall()
        self._cut(good, self._count * 4 * (self.making.dimension if self.making else 0))
        if not self._count:
            self.making = None

    def _recall(self) -> int:
        """Takes what the files hold; returns how many bytes of `done.jsonl` are sound."""
        good = 0
        size = 4 * self.making.dimension if self.making else 0
        self._vectors.seek(0)
        self._done.seek(0)
        for line in self._done:
            try:
                said = json.loads(line)
                digest = bytes.fromhex(said["digest"])
                reason, check = said.get("error"), said.get("crc")
            except (ValueError, TypeError, KeyError, AttributeError):
                break
            if not line.endswith(b"\n"):
                break
            if reason is not None:
                self._refused[digest] = reason
            else:
                blob = self._vectors.read(size)
                if not size or len(blob) < size:
                    break
                # Damaged: as if it had never been made.
                if zlib.crc32(blob) == check:
                    self._known[digest] = self._count
                self._count += 1
            good += len(line)
        return good

    def _cut(self, done: int, vectors: int) -> None:
        """Cuts both files to so many bytes; what is written next goes there."""
        self._done.truncate(done)
        self._vectors.truncate(vectors)
        for file in (self._done, self._vectors):
            os.fsync(file.fileno())

    def _close(self) -> None:
        for file in reversed(self._files):
            with contextlib.suppress(OSError):  # `flush` has said it
                file.close()
        self._files = []


def write_whole(path: Path, text: str) -> None:
    """Writes a file, all of it or nothing.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    put(part, path)


def put(part: Path, path: Path) -> None:
    """Puts a finished file in its place in one step, and waits for the disk.

    Raises:
        OSError: It cannot be written.
    """
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {str(folder)!r}: {error}", field="out")
