"""Parquet files: reads rows, and writes rows with their vectors (needs the extra `corpus`).

Arrays are exchanged with PyArrow as buffers and not through its NumPy functions, because each
version of PyArrow supports only some versions of NumPy.
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

# Column of the vectors: fixed-size lists of float32.
EMBEDDING = "embedding"
# Rows that are read at a time.
_BATCH_ROWS = 1024
# The same for files that contain pictures themselves.
_PICTURE_ROWS = 16


def count_rows(path: Path) -> int:
    """Returns the number of rows of a file.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file as dicts, column -> value. Memory holds one batch.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            has_bytes = any(map(_has_bytes, (schema.field(n).type for n in range(len(schema)))))
            for batch in file.iter_batches(batch_size=_PICTURE_ROWS if has_bytes else _BATCH_ROWS):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def read_metadata(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file that `write` wrote, without their vectors.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name != EMBEDDING]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def read_vectors(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yields the vectors of a file that `write` wrote.

    Yields:
        Chunks (n, D) float32, in order.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[EMBEDDING]):
                flat = batch.column(0).flatten()
                values = np.frombuffer(flat.buffers()[1], np.float32)
                yield values[flat.offset : flat.offset + len(flat)].reshape(batch.num_rows, -1)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error


def write(path: Path, lines: Path, chunks: Iterable[NDArray[np.float32]], dimension: int) -> None:
    """Writes rows and their vectors. Memory holds one row group.

    The type of a column is one to which all its values can be converted; for instance, integers
    beside floats become floats. If there is no such type, or if the values are objects without
    fields (for which Parquet has no type), the column has the type string. Then strings are written
    as they are, and other values as JSON.

    Args:
        path: File to write; replaced if it exists.
        lines: File with one JSON object per line.
        chunks: (n, D) float32 for each row group, in the order of the lines; N vectors for N lines.
        dimension: Length D of the vectors.

    Raises:
        OSError: The file cannot be written.
    """
    types = _column_types(lines)
    schema = pa.schema(
        [pa.field(name, type_ or pa.string()) for name, type_ in types.items()]
        + [pa.field(EMBEDDING, pa.list_(pa.float32(), dimension))]
    )
    with lines.open(encoding="utf-8") as file, pq.ParquetWriter(path, schema) as writer:
        rows = map(json.loads, file)
        for chunk in chunks:
            group = list(islice(rows, len(chunk)))
            columns = [_column(group, name, type_) for name, type_ in types.items()]
            blob = pa.py_buffer(np.ascontiguousarray(chunk, np.float32).tobytes())
            flat = pa.Array.from_buffers(pa.float32(), chunk.size, [None, blob])
            columns.append(pa.FixedSizeListArray.from_arrays(flat, dimension))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _column_types(lines: Path) -> dict[str, Any]:
    """Returns the type of each column, None for strings, in the order in which columns appear."""
    types: dict[str, Any] = {}
    with lines.open(encoding="utf-8") as file:
        rows = map(json.loads, file)
        while batch := list(islice(rows, _BATCH_ROWS)):
            for name in {name: None for row in batch for name in row if name != EMBEDDING}:
                before = types.get(name, pa.null())
                if before is not None:
                    types[name] = _shared_type(before, [row.get(name) for row in batch])
    return {name: None if type_ == pa.null() else type_ for name, type_ in types.items()}


def _shared_type(before: Any, values: list[Any]) -> Any:
    """Returns the type for values of an earlier type and these values; None if there is none."""
    try:
        here = pa.array(values).type
        both = [pa.schema([pa.field("x", type_)]) for type_ in (before, here)]
        shared = pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None
    return None if _has_empty_object(shared) else shared


def _has_empty_object(type_: Any) -> bool:
    """Whether a type contains an object without fields, for which Parquet has no type."""
    if pa.types.is_struct(type_):
        inside = [type_.field(n).type for n in range(type_.num_fields)]
        return not inside or any(map(_has_empty_object, inside))
    return bool(pa.types.is_list(type_)) and _has_empty_object(type_.value_type)


def _has_bytes(type_: Any) -> bool:
    """Whether values of a type contain bytes."""
    if pa.types.is_struct(type_):
        return any(_has_bytes(type_.field(n).type) for n in range(type_.num_fields))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _has_bytes(type_.value_type)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _column(rows: list[dict[str, Any]], name: str, type_: Any) -> Any:
    values = [row.get(name) for row in rows]
    if type_ is not None:
        return pa.array(values, type_)
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]
    return pa.array(texts, pa.string())
