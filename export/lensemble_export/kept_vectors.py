"""Keeps the vectors of an index build until the index is written.

If a build ends early, because an item fails or it is interrupted, the next build of the same index
takes the vectors from here and embeds only the rest.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensemble.profile import Profile
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.items import Item, Record
from lensemble_corpus.journal import Journal, VectorSettings

# The journal's errors name the folder above its own.
_JOURNAL = "work"


class KeptVectors:
    """The vectors that builds of one index have made, in a folder beside the index.

    Args:
        journal: the journal of the vectors.
        folder: the folder that contains the journal.

    Attributes:
        folder: the folder that contains the journal.
    """

    def __init__(self, journal: Journal, folder: Path) -> None:
        self._journal = journal
        self.folder = folder

    def find(self, item: Item) -> int | None:
        """The place of an item's vector, for `read`; None if there is none."""
        place = self._journal.find(_digest(item))
        return place if isinstance(place, int) else None

    def add(self, item: Item, vector: Vector) -> int:
        """Keeps the vector (D,) float32 of an item; returns its place, for `read`."""
        return self._journal.add(_digest(item), vector)

    def read(self, places: array[int]) -> NDArray[np.float32]:
        """The vectors (N, D) float32 at N places; at least one."""
        return np.concatenate(list(self._journal.read(places)))

    def remove(self) -> None:
        """Removes everything, after the index is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def kept_vectors(index: Path, profile: Profile, dimension: int) -> Iterator[KeptVectors]:
    """Opens the vectors that earlier builds of an index have made.

    Vectors of another profile or dimension are discarded.

    Args:
        index: folder of the index.
        profile: profile of the vectors.
        dimension: length D of the vectors.

    Raises:
        InvalidInputError: Another process is building the same index.
        StorageError: The folder cannot be written, or the journal is damaged.
    """
    index = index.resolve()
    folder = index.with_name(f"{index.name}.embedded")
    settings = VectorSettings(profile.hash, dimension, dimension, contract.NATIVE)
    with Journal(folder / _JOURNAL) as journal:
        is_usable = journal.settings in (None, settings)
    with Journal(folder / _JOURNAL, start_over=not is_usable) as journal:
        if journal.settings is None:
            journal.begin(settings)
        yield KeptVectors(journal, folder)


def _digest(item: Item) -> bytes:
    """A digest of an item's content, 16 bytes."""
    return bytes.fromhex(Record("", item).digest())[:16]
