"""Builds an index from a folder of embeddings; nothing is embedded again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lensemble.index.checks import check_id
from lensemble.index.maintenance.create import check_replaceable, write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.profile import RemoteProfile
from lensemble_contract.documents import normalized_document
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError
from lensemble_corpus.embeddings_manifest import (
    NPY,
    PARQUET,
    EmbeddingsManifest,
    read_digests,
    read_rows,
)
from lensemble_corpus.row_content import document_text


def index_embeddings(
    source: Path,
    out: Path,
    *,
    id_field: str | None = None,
    plan: IndexPlan | None = None,
    fields: Sequence[str] = (),
    replace: bool = False,
) -> int:
    """Writes an index of the vectors and rows that `lensemble corpus embed` wrote.

    The document of an item is its row, `embedding_index` included. A server can load the index if
    the vectors were made under the profile of its checkpoint.

    Args:
        source: folder of the embeddings.
        out: folder of the index.
        id_field: field with a row's id; None takes the field that the folder's manifest names.
        plan: index plan; None chooses one by the number of items.
        fields: document fields that get an SQL index, for filters.
        replace: whether an index with items in that folder may be replaced; it is then kept beside
            the new one (`replaced_folder`).

    Returns:
        Number of items in the index.

    Raises:
        InvalidInputError: The folder is not finished or is damaged, a row has no id or the id of
            another row, or a document is too large; or `out` contains something else, or an index
            that may not be replaced.
        StorageError: The index cannot be written.
        ImportError: PyArrow is needed and not installed.
    """
    existing: Literal["keep", "refuse"] = "keep" if replace else "refuse"
    check_replaceable(out.resolve(), existing)
    manifest = EmbeddingsManifest.load(source)
    field = id_field or manifest.id_field
    ids: dict[str, int] = {}
    documents = []
    for number, row in enumerate(read_rows(source, manifest), start=1):
        id_ = _row_id(row, field, number)
        if id_ in ids:
            raise InvalidInputError(
                f"{id_!r} is the id of rows {ids[id_]} and {number} of the embeddings; name a "
                "field whose values are unique (--id-field)",
                field=field,
            )
        ids[id_] = number
        documents.append(_row_document(row, number))
    with tempfile.TemporaryFile(dir=_make_parent(out)) as temporary:
        vectors = _load_vectors(source, manifest, temporary)
        if len(vectors) != len(documents):
            raise InvalidInputError(
                f"{len(vectors)} vectors and {len(documents)} rows in {str(source)!r}; embed again",
                field="source",
            )
        write_index(
            out,
            RemoteProfile(manifest.profile),
            vectors,
            [*ids],
            documents,
            # `corpus sync` recognizes the rows by these.
            digests=read_digests(source, manifest),
            plan=plan,
            fields=fields,
            threads=len(os.sched_getaffinity(0)),
            existing=existing,
        )
    return len(documents)


def _row_id(row: dict[str, Any], field: str, number: int) -> str:
    value = row.get(field)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InvalidInputError(
            f"row {number} has {value!r}; expected a text or a number (--id-field)", field=field
        )
    try:
        check_id(str(value))
    except LensembleError as error:
        raise InvalidInputError(f"row {number}: {error}", field=field) from error
    return str(value)


def _row_document(row: dict[str, Any], number: int) -> str:
    try:
        return normalized_document(document_text(row))
    except LensembleError as error:
        raise InvalidInputError(f"row {number}: {error.message}", field="document") from error


def _make_parent(out: Path) -> Path:
    """Creates the parent folder of the index if it is missing, and returns it."""
    parent = out.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {str(parent)!r}: {error}", field="index") from error
    return parent


def _load_vectors(
    source: Path, manifest: EmbeddingsManifest, temporary: IO[bytes]
) -> NDArray[np.float32]:
    """The vectors (N, D) float32, mapped from a file, so only what is accessed is in memory.

    Vectors in Parquet are written to the temporary file first.
    """
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet_files

        for chunk in parquet_files.read_vectors(source / PARQUET):
            temporary.write(chunk.tobytes())
        temporary.flush()
        return np.memmap(temporary, np.float32, "r").reshape(-1, manifest.dimension)
    try:
        vectors: NDArray[np.float32] = np.load(source / NPY, mmap_mode="r")
        if vectors.dtype != np.float32 or vectors.shape[1:] != (manifest.dimension,):
            raise ValueError(f"{vectors.dtype} of shape {vectors.shape}")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {str(source / NPY)!r}: {error}; embed again", field="source"
        ) from error
    return vectors
