"""Small files in memory that one process writes and others read.

Each holds a few float64 numbers. Writing and reading one takes microseconds, because the file is
mapped into memory by both sides.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path


class SharedNumbers:
    """A few float64 numbers in a file that is mapped into memory.

    Args:
        memory: the mapped file, of 8 bytes for each number.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._layout = struct.Struct(f"={len(memory) // 8}d")

    @classmethod
    def create(cls, path: Path, *numbers: float) -> SharedNumbers:
        """Makes the file, or empties an older one, and maps it for writing."""
        with path.open("w+b") as file:
            file.write(struct.pack(f"={len(numbers)}d", *numbers))
            file.flush()
            return cls(mmap.mmap(file.fileno(), 0))

    @classmethod
    def open(cls, path: Path) -> SharedNumbers:
        """Maps an existing file for reading.

        Raises:
            OSError: There is no such file.
            ValueError: The file is still empty: its writer is just creating it.
        """
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def write(self, *numbers: float) -> None:
        """Replaces all numbers."""
        self._layout.pack_into(self._memory, 0, *numbers)

    def read(self) -> tuple[float, ...]:
        """All numbers."""
        return self._layout.unpack(self._memory)

    def close(self) -> None:
        """Unmaps the file."""
        self._memory.close()
