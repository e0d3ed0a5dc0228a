"""Parquet: rows out of it, and embeddings with their rows into it (needs `lensemble[corpus]`).

PyArrow goes without NumPy here: each of its versions takes only some of NumPy's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError

EMBEDDING = "embedding"
"""Column of the vectors: fixed-size lists of float32."""
_AT_A_TIME = 1024
"""Rows in a batch that is read; also of a row group that is written, with their vectors."""


def count(path: Path) -> int:
    """How many rows a file has.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, by name of column; a few are in memory at a time.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_AT_A_TIME):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def metadata(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write` made, without their vectors.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name != EMBEDDING]
            for batch in file.iter_batches(batch_size=_AT_A_TIME, columns=names):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def vectors(path: Path) -> Iterator[NDArray[np.float32]]:
    """The vectors of a file that `write` made.

    Returns:
        (n, D) float32, some at a time, in order.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_AT_A_TIME, columns=[EMBEDDING]):
                flat = batch.column(0).flatten()
                values = np.frombuffer(flat.buffers()[1], np.float32)
                found = values[flat.offset : flat.offset + len(flat)]
                yield found.reshape(batch.num_rows, -1)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def write(path: Path, lines: Path, chunks: Iterable[NDArray[np.float32]], dimension: int) -> None:
    """Writes rows and their vectors; memory holds one row group.

    A column has the type that all its values share: whole numbers with fractions are fractions.
    Where they share none, or are objects without a field, texts stay as they are, and other values
    become JSON text.

    Args:
        path: Of the file; replaced.
        lines: A file with a JSON object per line.
        chunks: (n, D) float32, in the order of the lines; as many as there are lines.
        dimension: D.

    Raises:
        OSError: It cannot be written.
    """
    types = _types(lines)
    schema = pa.schema(
        [pa.field(name, type_ or pa.string()) for name, type_ in types.items()]
        + [pa.field(EMBEDDING, pa.list_(pa.float32(), dimension))]
    )
    with lines.open(encoding="utf-8") as file, pq.ParquetWriter(path, schema) as writer:
        read = map(json.loads, file)
        for chunk in chunks:
            said = list(islice(read, len(chunk)))
            columns = [_column(said, name, type_) for name, type_ in types.items()]
            blob = pa.py_buffer(np.ascontiguousarray(chunk, np.float32).tobytes())
            flat = pa.Array.from_buffers(pa.float32(), chunk.size, [None, blob])
            columns.append(pa.FixedSizeListArray.from_arrays(flat, dimension))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _types(lines: Path) -> dict[str, Any]:
    """Column -> the type of its values, None for JSON text; in the order of appearance."""
    types: dict[str, Any] = {}
    with lines.open(encoding="utf-8") as file:
        read = map(json.loads, file)
        while said := list(islice(read, _AT_A_TIME)):
            for name in {name: None for row in said for name in row if name != EMBEDDING}:
                if types.get(name, pa.null()) is None:
                    continue
                types[name] = _shared(types.get(name, pa.null()), [row.get(name) for row in said])
    return {name: None if type_ == pa.null() else type_ for name, type_ in types.items()}


def _shared(before: Any, values: list[Any]) -> Any:
    """A type for these values, too; None if there is none."""
    try:
        here = pa.array(values).type
        both = [pa.schema([pa.field("x", type_)]) for type_ in (before, here)]
        found = pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None
    return None if _has_no_field(found) else found


def _has_no_field(type_: Any) -> bool:
    """Whether an object without fields is in it, which Parquet has no type for."""
    if pa.types.is_struct(type_):
        inside = [type_.field(n).type for n in range(type_.num_fields)]
        return not inside or any(map(_has_no_field, inside))
    return bool(pa.types.is_list(type_)) and _has_no_field(type_.value_type)


def _column(said: list[dict[str, Any]], name: str, type_: Any) -> Any:
    values = [row.get(name) for row in said]
    if type_ is not None:
        return pa.array(values, type_)
    texts = [
        one if one is None or isinstance(one, str) else json.dumps(one, ensure_ascii=False)
        for one in values
    ]
    return pa.array(texts, pa.string())
