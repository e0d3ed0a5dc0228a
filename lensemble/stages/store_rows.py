"""The rows of requests to `store`, and the results that are written for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensemble.index.storage.changes import Change, DocumentChange, Upsert
from lensemble.index.storage.filter import Filter
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.index_checks import check_id
from lensemble_contract.items import Rows


@dataclass(frozen=True, slots=True)
class ReadOperation:
    """A row that reads the index.

    Attributes:
        operation: `get`, `stats`, `list` or `count`.
        id: id of the item, for `get`; for `list`, the id after which the page begins.
        filter: filter on documents, for `list` and `count`.
        limit: largest number of items, for `list`.
    """

    operation: str
    id: str = ""
    filter: Filter | None = None
    limit: int = contract.DEFAULT_LIST_LIMIT


class CarriedFigures(NamedTuple):
    """What `ingest` answers about its earlier steps (`contract.CARRIED`); 0 in other requests.

    Attributes:
        tokens: tokens in the item's prompt.
        preprocess_ms: milliseconds for which `preprocess` worked.
        encode_ms: milliseconds for which `qwen3_vl` worked.
    """

    tokens: int = 0
    preprocess_ms: float = 0.0
    encode_ms: float = 0.0


NOTHING_CARRIED = CarriedFigures()


class StoreRow(NamedTuple):
    """One row of a request.

    Attributes:
        request: what is written or read.
        carried: figures of the steps before.
    """

    request: Change | ReadOperation
    carried: CarriedFigures = NOTHING_CARRIED


@dataclass(frozen=True, slots=True)
class StoreResult:
    """The result of one row.

    Attributes:
        sequence: sequence number of the write, or of the item that was read; 0 if there is no such
            item. With other readings, that of the last change.
        document: JSON text: the item's document, or what was read; empty after a write.
        digest: digest of the content from which the item was made.
        embedding: the item's vector, (D,) float32; empty unless an item was read.
        carried: figures of the steps before.
    """

    sequence: int
    document: str = ""
    digest: str = ""
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    carried: CarriedFigures = NOTHING_CARRIED


def read_id(id_: bytes) -> str | LensembleError:
    """The id of a row, or its error."""
    try:
        return check_id(id_.decode())
    except UnicodeDecodeError as error:
        return InvalidInputError(f"not valid UTF-8 at byte {error.start}", field=contract.ID.name)
    except InvalidInputError as error:
        return error


def read_upsert(
    id_: str | LensembleError, vector: Vector | LensembleError, document: bytes, digest: str
) -> Upsert | LensembleError:
    """The write of a row, or the error of its id, vector or document.

    The document is parsed and checked by the store.
    """
    if isinstance(id_, LensembleError):
        return id_
    if isinstance(vector, LensembleError):
        return vector
    text = _read_document(document)
    return text if isinstance(text, LensembleError) else Upsert(id_, vector, text, digest)


def read_document_change(
    id_: str | LensembleError, document: bytes, digest: str, *, merge: bool
) -> DocumentChange | LensembleError:
    """The change of a row's document, or the error of its id or document."""
    if isinstance(id_, LensembleError):
        return id_
    text = _read_document(document)
    return text if isinstance(text, LensembleError) else DocumentChange(id_, text, merge, digest)


def _read_document(document: bytes) -> str | LensembleError:
    try:
        return document.decode() or "{}"
    except UnicodeDecodeError as error:
        return InvalidInputError(
            f"not valid UTF-8 at byte {error.start}", field=contract.DOCUMENT.name
        )


def read_carried(rows: Rows, count: int) -> list[CarriedFigures] | None:
    """The figures of the steps before `store`; None if the request does not come from `ingest`.

    Args:
        rows: input tensors of the request.
        count: number of its rows.
    """
    columns = [rows.get(tensor.name) for tensor in contract.CARRIED]
    if any(column is None or not column.shape[1] for column in columns):
        return None
    return [
        CarriedFigures(*(column[row, 0] for column in columns if column is not None))
        for row in range(count)
    ]


def result_rows(results: Sequence[StoreResult]) -> Rows:
    """The output tensors of one request, all of whose rows succeeded."""
    length = max(len(result.embedding) for result in results)
    vectors = np.zeros((len(results), length), np.float32)
    for n, result in enumerate(results):
        vectors[n, : len(result.embedding)] = result.embedding
    carried = [result.carried for result in results]
    return {
        contract.SEQUENCE.name: np.array([[result.sequence] for result in results], np.int64),
        contract.STORED_DOCUMENT.name: _column([result.document for result in results]),
        contract.STORED_DIGEST.name: _column([result.digest for result in results]),
        contract.STORED_EMBEDDING.name: vectors,
        contract.TOKENS.name: np.array([[each.tokens] for each in carried], np.int32),
        contract.PREPROCESS_MS.name: np.array([[each.preprocess_ms] for each in carried], "f4"),
        contract.ENCODE_MS.name: np.array([[each.encode_ms] for each in carried], "f4"),
    }


def _column(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([[text.encode()] for text in texts], np.object_)
