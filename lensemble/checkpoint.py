"""Opens a serving checkpoint on disk and checks that it is complete and unchanged.

A serving checkpoint is a folder in Hugging Face's layout (safetensors, `config.json`,
`tokenizer.json`) with a `profile.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError

TOKENIZER_FILE = "tokenizer.json"
_CHUNK_BYTES = 8 * 1024 * 1024
_MIN_BYTES_FOR_PROGRESS = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A serving checkpoint whose files were checked.

    Attributes:
        folder: folder of the checkpoint.
        profile: its profile.
    """

    folder: Path
    profile: Profile

    @classmethod
    def open(cls, folder: Path, *, full: bool = False) -> Checkpoint:
        """Opens a serving checkpoint and checks its files against its profile.

        Args:
            folder: folder of the serving checkpoint.
            full: whether to hash the weights too, which takes seconds per GB; otherwise only their
                size is compared. All other files are always hashed.

        Raises:
            InvalidInputError: A file is missing, or is not the one for which the profile was made.
        """
        profile = Profile.load(folder)
        for name, (sha256, expected_size) in profile.files.items():
            path = folder / name
            if not path.is_file():
                raise InvalidInputError(f"{str(path)!r} is missing", field="checkpoint")
            if (size := path.stat().st_size) != expected_size:
                raise InvalidInputError(
                    f"{str(path)!r} has {size} bytes, but its profile says {expected_size}; "
                    "convert the checkpoint again",
                    field="checkpoint",
                )
            if (full or path.suffix != ".safetensors") and sha256_of(path) != sha256:
                raise InvalidInputError(
                    f"{str(path)!r} is not the file for which the profile was made; convert the "
                    "checkpoint again",
                    field="checkpoint",
                )
        return cls(folder, profile)


def sha256_of(path: Path, *, progress: bool = False) -> str:
    """Computes the SHA-256 of a file.

    Args:
        path: path of the file.
        progress: whether to show a progress bar if the file is large.

    Returns:
        Hex digits.
    """
    digest = hashlib.sha256()
    size = path.stat().st_size
    progress = progress and size > _MIN_BYTES_FOR_PROGRESS
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"hash {path.name}", total=size, unit="B", unit_scale=True, disable=not progress
        ) as bar,
    ):
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def hash_files(
    folder: Path, names: Iterable[str], *, progress: bool = False
) -> dict[str, tuple[str, int]]:
    """Computes the SHA-256 and the size of files.

    Args:
        folder: folder of the files.
        names: their names, relative to the folder.
        progress: whether to show progress bars for large files.

    Returns:
        Name -> SHA-256 as hex digits, and size in bytes.
    """
    return {
        name: (sha256_of(folder / name, progress=progress), (folder / name).stat().st_size)
        for name in sorted(names)
    }


def content_hash(files: Mapping[str, tuple[str, int]]) -> str:
    """Computes one `sha256:` over the names and hashes of files, as `hash_files` returns them."""
    lines = "".join(f"{name} {sha}\n" for name, (sha, _) in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
