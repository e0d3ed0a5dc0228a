"""Reads a finished folder of embeddings.

It contains these files:

embeddings.npy      (N, D) float32, for `np.load(..., mmap_mode="r")`
metadata.json       the N rows as they were, each with `embedding_index`, the number of its vector
embeddings.parquet  in place of these two if Parquet was chosen; columns of the rows,
                    `embedding_index`, `embedding`
digests.txt         digest of each row (`sync.table_digest`), a line for each vector
failed.json         rows that have no vector: where, id, path, error
manifest.json       profile, dimension, counts; it is written last, so a folder without it is
                    unfinished
work/               the journal (`journal`), for the next run
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from lensemble_contract.errors import InvalidInputError

FORMAT = 1
NPY, METADATA, PARQUET = "embeddings.npy", "metadata.json", "embeddings.parquet"
DIGESTS = "digests.txt"
FAILED, MANIFEST, WORK = "failed.json", "manifest.json", "work"

FileKind: TypeAlias = Literal["npy", "parquet"]


@dataclass(frozen=True, slots=True)
class EmbeddingsManifest:
    """Description of a finished folder of embeddings.

    Attributes:
        profile: Hash of the profile under which all vectors were made.
        dimension: Length of each vector.
        asked: `dimensions` of the requests; None if they asked for the full length.
        embedder: Name of the embedder.
        kind: `npy` or `parquet`.
        count: Number of rows with a vector.
        failed: Number of rows without one.
        id_field: Field with a row's id.
        content: SHA-256 over the rows, in order, and over the place of each vector in the journal.
        sizes: Bytes of each of the other files, so that a file that was cut is noticed.
        format: Version of the folder's layout.
    """

    profile: str
    dimension: int
    asked: int | None
    embedder: str
    kind: FileKind
    count: int
    failed: int
    id_field: str
    content: str
    sizes: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the manifest of a folder.

        Raises:
            InvalidInputError: The folder is not finished, or has another format.
        """
        path = folder / MANIFEST
        try:
            manifest = cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"no {MANIFEST} in {str(folder)!r}, so this folder of embeddings is not finished; "
                "run `lensemble corpus embed` (again)",
                field="source",
            ) from error
        except (OSError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"cannot read {str(path)!r}: {error}; embed again", field="source"
            ) from error
        if manifest.format != FORMAT:
            raise InvalidInputError(
                f"{str(path)!r} has format {manifest.format!r}, expected {FORMAT}; embed again",
                field="source",
            )
        return manifest

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files with the vectors, the rows and their digests."""
        return (NPY, METADATA, DIGESTS) if self.kind == "npy" else (PARQUET, DIGESTS)


def read_rows(folder: Path, manifest: EmbeddingsManifest) -> Iterator[dict[str, Any]]:
    """Reads the rows of a finished folder, in the order of their vectors, without the vectors.

    Raises:
        InvalidInputError: The rows cannot be read.
        ImportError: PyArrow is needed and not installed.
    """
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet_files

        yield from parquet_files.read_metadata(folder / PARQUET)
        return
    path = folder / METADATA
    try:
        rows = json.loads(path.read_text("utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("expected a list of objects")
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error
    yield from rows


def read_digests(folder: Path, manifest: EmbeddingsManifest) -> list[str] | None:
    """Reads the digests of the rows, in the order of their vectors.

    Returns:
        A digest for each vector; None if an earlier version wrote the folder, without digests.

    Raises:
        InvalidInputError: The file cannot be read, or does not fit the vectors.
    """
    if DIGESTS not in manifest.sizes:
        return None
    path = folder / DIGESTS
    try:
        digests = path.read_text("ascii").splitlines()
        if len(digests) != manifest.count:
            raise ValueError(f"{len(digests)} lines; expected {manifest.count}")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {str(path)!r}: {error}; embed again", field="source"
        ) from error
    return digests


def read_failures(folder: Path) -> list[dict[str, str]]:
    """Reads `failed.json`: `where`, `id`, `path` and `error` of each row without a vector.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    path = folder / FAILED
    try:
        failures: list[dict[str, str]] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="out") from error
    return failures
