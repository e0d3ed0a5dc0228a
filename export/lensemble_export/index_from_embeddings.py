"""A folder of embeddings that a server made -> an index; nothing is embedded again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index import check_id
from lensemble.index.maintenance.create import check_target, write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.profile import KnownProfile
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError
from lensemble_corpus.embedding_folder import NPY, PARQUET, Manifest, read_rows
from lensemble_corpus.tables import document_text


def index_embeddings(
    source: Path,
    out: Path,
    *,
    id_field: str | None = None,
    plan: IndexPlan | None = None,
    fields: Sequence[str] = (),
) -> int:
    """Writes an index of a folder that `lensemble corpus embed` made.

    A hit's document is the row, `embedding_index` included. A server takes the index if its profile
    is the one that the vectors were made under.

    Args:
        source: Folder of the embeddings.
        out: Folder of the index; one that stands there is replaced.
        id_field: Where a row has its id; the one that the folder names if None.
        plan: How the index is to be searched; None goes by its size.
        fields: Of documents, that get an index for filters.

    Returns:
        How many items are in it.

    Raises:
        InvalidInputError: The folder is not finished or damaged, a row has no id or another row's,
            or a document is too large.
        StorageError: The index cannot be written.
        ImportError: PyArrow is needed, and not there.
    """
    check_target(out.resolve())
    manifest = Manifest.load(source)
    field = id_field or manifest.id_field
    ids: dict[str, int] = {}
    documents = []
    for number, row in enumerate(read_rows(source, manifest)):
        id_ = _id(row, field, number)
        if id_ in ids:
            raise InvalidInputError(
                f"{id_!r} stands twice, in rows {ids[id_]} and {number}; give a field that tells "
                "rows apart (--id-field)",
                field=field,
            )
        ids[id_] = number
        documents.append(document_text(row))
    with tempfile.TemporaryFile(dir=_parent(out)) as scratch:
        vectors = _vectors(source, manifest, scratch)
        if len(vectors) != len(documents):
            raise InvalidInputError(
                f"{len(vectors)} vectors and {len(documents)} rows in {str(source)!r}; embed again",
                field="source",
            )
        write_index(
            out,
            KnownProfile(manifest.profile),
            vectors,
            [*ids],
            documents,
            plan=plan,
            fields=fields,
            threads=len(os.sched_getaffinity(0)),
        )
    return len(documents)


def _id(row: dict[str, Any], field: str, number: int) -> str:
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


def _parent(out: Path) -> Path:
    """The folder that the index will be in, made if missing."""
    parent = out.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {str(parent)!r}: {error}", field="index") from error
    return parent


def _vectors(source: Path, manifest: Manifest, scratch: IO[bytes]) -> NDArray[np.float32]:
    """(N, D) float32, mapped from a file: memory holds what is looked at."""
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet

        for part in parquet.vectors(source / PARQUET):
            scratch.write(part.tobytes())
        scratch.flush()
        return np.memmap(scratch, np.float32, "r").reshape(-1, manifest.dimension)
    try:
        found: NDArray[np.float32] = np.load(source / NPY, mmap_mode="r")
        if found.dtype != np.float32 or found.shape[1:] != (manifest.dimension,):
            raise ValueError(f"{found.dtype} of shape {found.shape}")
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {str(source / NPY)!r}: {error}; embed again", field="source"
        ) from error
    return found
