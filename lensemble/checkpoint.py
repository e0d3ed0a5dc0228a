"""A serving checkpoint on disk: is it whole?

A folder in Hugging Face format (safetensors, `config.json`, `tokenizer.json`) plus `profile.json`.
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
_WORTH_A_BAR_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A serving checkpoint that was found whole.

    Attributes:
        folder: Where it lies.
        profile: What its vectors depend on.
    """

    folder: Path
    profile: Profile

    @classmethod
    def open(cls, folder: Path, *, full: bool = False) -> Checkpoint:
        """Opens a serving checkpoint and checks its files against the profile.

        Args:
            folder: The serving checkpoint.
            full: Whether to hash the weights too (seconds per GB); otherwise their size is
                compared, and every other file is hashed.

        Raises:
            InvalidInputError: A file is missing or not the one that the profile was made with.
        """
        profile = Profile.load(folder)
        for name, (sha256, size) in profile.files.items():
            path = folder / name
            if not path.is_file():
                raise InvalidInputError(f"{str(path)!r} is missing", field="checkpoint")
            if (found := path.stat().st_size) != size:
                raise InvalidInputError(
                    f"{str(path)!r} has {found} bytes, its profile says {size}; convert it again",
                    field="checkpoint",
                )
            if (full or path.suffix != ".safetensors") and sha256_of(path) != sha256:
                raise InvalidInputError(
                    f"{str(path)!r} is not the file that its profile was made with; convert it "
                    "again",
                    field="checkpoint",
                )
        return cls(folder, profile)


def sha256_of(path: Path, *, progress: bool = False) -> str:
    """SHA-256 of a file, as hex digits."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    progress = progress and size > _WORTH_A_BAR_BYTES
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


def fingerprint(
    folder: Path, names: Iterable[str], *, progress: bool = False
) -> dict[str, tuple[str, int]]:
    """File name -> (sha256, bytes)."""
    return {
        name: (sha256_of(folder / name, progress=progress), (folder / name).stat().st_size)
        for name in sorted(names)
    }


def content_hash(files: Mapping[str, tuple[str, int]]) -> str:
    """One `sha256:` over the names and hashes of all files."""
    lines = "".join(f"{name} {sha}\n" for name, (sha, _) in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
