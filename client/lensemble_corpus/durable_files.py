"""Writes files that are replaced as a whole, and that are on the disk when the call returns."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, text: str) -> None:
    """Writes a file. After a crash, the file has either all of its old or all of its new content.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    move_into_place(part, path)


def move_into_place(part: Path, path: Path) -> None:
    """Replaces the file at `path` by a finished file, and flushes both to the disk.

    Args:
        part: The finished file, in the same folder; it is renamed.
        path: The file to replace; it may be missing.

    Raises:
        OSError: The file cannot be written.
    """
    flush_to_disk(part)
    part.replace(path)
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: The disk reports an error.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
