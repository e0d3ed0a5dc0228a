"""The check of a folder before a command writes to it."""

from __future__ import annotations

from pathlib import Path

from lensemble_contract.errors import InvalidInputError


def check_output_folder(out: Path) -> None:
    """Checks that a folder is missing or empty.

    Raises:
        InvalidInputError: The folder is not empty, or it is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(
            f"{str(out)!r} is not an empty folder; give a new folder", field="out"
        )
