"""Files that are replaced as a whole, and that are on the disk when the call returns."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, text: str) -> None:
    """Writes a file: after a crash it has either its old content or all of the new.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    move_into_place(part, path)


def move_into_place(part: Path, path: Path) -> None:
    """Renames a finished file, which replaces the file at `path`, and flushes both to the disk.

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
