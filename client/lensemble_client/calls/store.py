"""The calls that write to the index and read from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_client.calls.call import Call, json_text
from lensemble_client.results import ItemPage, ListedItem, Stored
from lensemble_contract import contract
from lensemble_contract.documents import document_text
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.index_checks import check_id, check_ids
from lensemble_contract.items import Record, Rows, blank_rows, to_rows

_WRITE = contract.STORE.with_outputs(contract.SEQUENCE)
_READ = contract.STORE.with_outputs(
    contract.SEQUENCE,
    contract.STORED_DOCUMENT,
    contract.STORED_DIGEST,
    contract.STORED_EMBEDDING,
)
_READ_DOCUMENT = contract.STORE.with_outputs(contract.STORED_DOCUMENT)


def ingest(record: Record, digest: str | None = None) -> Call[list[int]]:
    """Embeds and stores a record; the result is the sequence number of the write, in a list.

    Args:
        record: The record.
        digest: Digest to store with the item; None takes that of the record.

    Raises:
        InvalidInputError: The item is empty, or the id or the document is not valid.
    """
    check_id(record.id)
    rows = {**to_rows([record.item]), **_id_rows([record.id], [record.document])}
    model = contract.INGEST.with_outputs(contract.SEQUENCE)
    parameters = {contract.DIGEST: record.digest() if digest is None else digest}
    return Call(model, rows, parameters, _sequences, writes=True)


def upsert(
    ids: Iterable[str],
    vectors: NDArray[np.float32] | Sequence[Sequence[float]],
    documents: Iterable[Mapping[str, Any]] | None,
    profile: str,
) -> list[Call[list[int]]]:
    """Stores vectors (N, D) float32, at most `contract.MAX_BATCH_SIZE` of them in one call.

    The result of each call is the list of its sequence numbers.

    Raises:
        InvalidInputError: The lengths differ, the vectors are not an array of numbers, or an id or
            a document is not valid.
    """
    ids, array = check_ids(ids), _matrix(vectors)
    documents = [{}] * len(ids) if documents is None else [*documents]
    if not len(ids) == len(array) == len(documents):
        raise InvalidInputError(
            f"{len(ids)} ids, {len(array)} vectors, {len(documents)} documents; expected "
            "the same number",
            field="vectors",
        )
    return [
        Call(
            _WRITE,
            _store_rows(ids[part], array[part], documents[part]),
            {contract.PROFILE: profile},
            _sequences,
            writes=True,
        )
        for part in _slices(len(ids))
    ]


def delete(ids: Iterable[str]) -> list[Call[list[int]]]:
    """Removes items, at most `contract.MAX_BATCH_SIZE` of them in one call.

    The result of each call is the list of its sequence numbers, with 0 for an id that was not
    stored.

    Raises:
        InvalidInputError: `ids` is a single string, or an id is not valid.
    """
    ids = check_ids(ids)
    parameters = {contract.OPERATION: contract.DELETE}
    return [
        Call(_WRITE, _store_rows(ids[part]), parameters, _sequences, writes=True)
        for part in _slices(len(ids))
    ]


def get(id_: str) -> Call[Stored | None]:
    """Reads the item that is stored under an id; the result is None if there is none.

    Raises:
        InvalidInputError: The id is not valid.
    """
    check_id(id_)

    def read(rows: Rows) -> Stored | None:
        (sequence,) = _sequences(rows)
        if not sequence:
            return None
        return Stored(
            id_,
            json.loads(rows[contract.STORED_DOCUMENT.name][0, 0]),
            rows[contract.STORED_EMBEDDING.name][0],
            sequence,
            rows[contract.STORED_DIGEST.name][0, 0].decode(),
        )

    return Call(_READ, _store_rows([id_]), {contract.OPERATION: contract.GET}, read)


def list_page(
    filter: Mapping[str, Any] | None = None,
    after: str = "",
    limit: int = contract.MAX_LIST_LIMIT,
) -> Call[ItemPage]:
    """Reads items that match a filter, in the order of their ids, from the first id after `after`.

    Raises:
        InvalidInputError: The id is not valid, or the filter cannot be written as JSON.
    """
    if after:
        check_id(after, "after")

    def read(rows: Rows) -> ItemPage:
        page = json.loads(rows[contract.STORED_DOCUMENT.name][0, 0])
        items = [
            ListedItem(item["id"], item["document"], item["sequence"], item["digest"])
            for item in page["items"]
        ]
        return ItemPage(items, page["next"])

    parameters = _filter_parameters(contract.LIST, filter) | {contract.LIMIT: limit}
    return Call(_READ_DOCUMENT, _store_rows([after]), parameters, read)


def count(filter: Mapping[str, Any] | None = None) -> Call[int]:
    """Counts the items that match a filter.

    Raises:
        InvalidInputError: The filter cannot be written as JSON.
    """

    def read(rows: Rows) -> int:
        return int(json.loads(rows[contract.STORED_DOCUMENT.name][0, 0])["count"])

    return Call(_READ_DOCUMENT, _store_rows([""]), _filter_parameters(contract.COUNT, filter), read)


def change_document(
    id_: str, document: Mapping[str, Any], *, merge: bool, digest: str = ""
) -> Call[list[int]]:
    """Changes the document of an item, and keeps its vector.

    The result is the sequence number of the change in a list, 0 if there is no such item.

    Args:
        id_: Id of the item.
        document: Object that is merged into the stored one, or replaces it.
        merge: Whether it is merged.
        digest: Digest of the item from now on, if the document is replaced; empty to derive it.

    Raises:
        InvalidInputError: The id or the document is not valid.
    """
    check_id(id_)
    parameters = {contract.OPERATION: contract.PATCH if merge else contract.SET_DOCUMENT}
    if digest:
        parameters[contract.DIGEST] = digest
    rows = _store_rows([id_], documents=[document])
    return Call(_WRITE, rows, parameters, _sequences, writes=True)


def stats() -> Call[dict[str, Any]]:
    """Reads the description of the index; the result is a JSON object."""

    def read(rows: Rows) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(rows[contract.STORED_DOCUMENT.name][0, 0])
        return description

    return Call(_READ, _store_rows([""]), {contract.OPERATION: contract.STATS}, read)


def sequence_if_unchanged(stored: Stored | None, record: Record) -> int:
    """Returns the sequence number of the stored item if it was made from this record, else 0."""
    return stored.sequence if stored is not None and stored.digest == record.digest() else 0


def _filter_parameters(
    operation: str, filter: Mapping[str, Any] | None
) -> dict[str, str | int | bool]:
    parameters: dict[str, str | int | bool] = {contract.OPERATION: operation}
    if filter:
        parameters[contract.FILTER] = json_text(filter, contract.FILTER)
    return parameters


def _slices(count: int) -> list[slice]:
    step = contract.MAX_BATCH_SIZE
    return [slice(start, start + step) for start in range(0, count, step)]


def _sequences(rows: Rows) -> list[int]:
    sequences: list[int] = rows[contract.SEQUENCE.name][:, 0].tolist()
    return sequences


def _id_rows(ids: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> Rows:
    """Returns `id` and `document`, object arrays (B, 1) of bytes."""
    texts = [document_text(document) for document in documents]
    return {
        contract.ID.name: np.array([[id_.encode()] for id_ in ids], np.object_),
        contract.DOCUMENT.name: np.array([[text.encode()] for text in texts], np.object_),
    }


def _matrix(vectors: NDArray[np.float32] | Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """The vectors as an array (N, D), float32."""
    try:
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused
            array = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"they are not an array of numbers ({error}); expected shape (N, D)", field="vectors"
        ) from error
    if array.ndim != 2 and array.size:
        raise InvalidInputError(
            f"an array of shape {array.shape}; expected (N, D), one row for each id",
            field="vectors",
        )
    return array


def _store_rows(
    ids: Sequence[str],
    vectors: NDArray[np.float32] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> Rows:
    """Returns the inputs of `store`; without vectors, `embedding` has length 0."""
    rows = _id_rows(ids, [{}] * len(ids) if documents is None else documents)
    empty = np.empty((len(ids), 0), np.float32)
    rows[contract.EMBEDDING.name] = empty if vectors is None else vectors
    # Only `ingest` has figures of earlier steps.
    rows |= {
        tensor.name: np.repeat(none, len(ids), axis=0)
        for tensor, none in zip(
            contract.CARRIED, blank_rows(contract.CARRIED).values(), strict=True
        )
    }
    return rows
