"""What can be asked of a server: request and answer of each call, without the wire.

`Client` and `AsyncClient` carry them, so both ask alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
)
from lensemble_contract.items import Item, Record, Rows, blank, to_rows

T = TypeVar("T")

_WRITE = contract.STORE.giving(contract.SEQUENCE)
_READ = contract.STORE.giving(
    contract.SEQUENCE,
    contract.STORED_DOCUMENT,
    contract.STORED_DIGEST,
    contract.STORED_EMBEDDING,
)

Embedding = NDArray[np.float32]
"""One vector (D,), float32, unit length."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One item of the corpus that a search found.

    Attributes:
        id: The id under which the caller stored it.
        score: Inner product of unit vectors, -1 to 1; bigger is nearer.
        document: The JSON document stored with it.
    """

    id: str
    score: float
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """One item of the corpus as it is stored.

    Attributes:
        id: The caller's own.
        document: The JSON document.
        embedding: (D,) float32, unit length.
        sequence: The number of the change that wrote it.
        digest: Of what it was made from; empty if not known.
    """

    id: str
    document: dict[str, Any]
    embedding: NDArray[np.float32]
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """A result, and what it took.

    Attributes:
        result: Of one item.
        tokens: Of its prompt, pictures included; 0 where nothing was encoded.
        times_ms: Stage (`preprocess`, `encode`, `search`, `store`) -> milliseconds that it worked
            on the batch that the item was in, without any waiting.
        profile: Hash of the profile that a vector was made under; empty for other results.
    """

    result: T
    tokens: int
    times_ms: Mapping[str, float]
    profile: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        model: What is run.
        rows: Its inputs.
        parameters: Of the request.
        read: Outputs -> what the caller gets.
        writes: Whether it changes the index.
    """

    model: contract.Model
    rows: Rows
    parameters: Parameters
    read: Callable[[Rows], T]
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Looking:
    """How to search, whatever is searched for.

    Attributes:
        top_k: How many items at most, 1 to `contract.MAX_TOP_K`.
        filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
        exclude: Ids that are not to be found.
        min_score: Only items with this score or more.
    """

    top_k: int = contract.DEFAULT_TOP_K
    filter: Mapping[str, Any] | None = None
    exclude: Sequence[str] = ()
    min_score: float | None = None

    def parameters(self, **more: str | int | None) -> Parameters:
        """As request parameters, with others that have a value.

        Raises:
            InvalidInputError: Filter or ids cannot be written as JSON.
        """
        least = None if self.min_score is None else repr(float(self.min_score))
        return given(
            top_k=self.top_k,
            filter=json_text(self.filter, contract.FILTER) if self.filter else None,
            exclude=json_text(list(self.exclude), contract.EXCLUDE) if self.exclude else None,
            min_score=least,
            **more,
        )


def ping(name: str) -> Call[None]:
    """Whether a model that is a process can do its work.

    Args:
        name: Of the model, of `contract.PROCESSES`.
    """
    model = contract.PROCESSES[name]
    asked = [tensor for tensor in model.inputs if not tensor.optional] or model.inputs[:1]
    return Call(model, blank(asked), {contract.PING: True}, lambda _: None)


def processes_of(model: str) -> tuple[str, ...]:
    """The models that are processes, of which a model is made.

    Args:
        model: Its name, of `contract.ALL_MODELS`.
    """
    return contract.ALL_MODELS[model].steps or (model,)


def is_answer(error: LensembleError) -> bool:
    """Whether a model that says this to a ping is there; one of before there were pings is.

    Args:
        error: Of `ping`.
    """
    return not isinstance(error, NotReadyError | DeadlineExceededError | InternalError)


def embed(
    items: Sequence[Item], dimensions: int | None, embedder: str = contract.NATIVE
) -> Call[list[Embedding]]:
    """Embeds 1 to `contract.MAX_BATCH_SIZE` items; gives the vector (D,) of each.

    Raises:
        InvalidInputError: An item is empty, or there is no such embedder.
    """
    return Call(
        embedder_called(embedder).giving(contract.EMBEDDING),
        to_rows(items),
        given(dimensions=dimensions),
        lambda rows: list(rows[contract.EMBEDDING.name]),
    )


def search(
    items: Sequence[Item], looking: Looking, dimensions: int | None
) -> Call[list[list[Hit]]]:
    """Searches for 1 to `contract.MAX_BATCH_SIZE` items; gives the hits of each, nearest first.

    Raises:
        InvalidInputError: An item is empty, or filter or ids cannot be written as JSON.
    """
    parameters = looking.parameters(dimensions=dimensions)
    return Call(contract.SEARCH.giving(*contract.HITS), to_rows(items), parameters, _hits)


def search_vector(
    vector: Sequence[float] | Embedding, looking: Looking, profile: str | None
) -> Call[list[list[Hit]]]:
    """Searches for a vector (D,); gives one row of hits, nearest first.

    Raises:
        InvalidInputError: Filter or ids cannot be written as JSON.
    """
    rows = {contract.EMBEDDING.name: np.array([vector], np.float32)}
    parameters = looking.parameters(profile=profile)
    return Call(contract.FAISS.giving(*contract.HITS), rows, parameters, _hits)


def more_like(id_: str, looking: Looking) -> Call[list[list[Hit]]]:
    """Searches for the neighbours of a stored item; gives one row of hits, nearest first.

    Raises:
        InvalidInputError: Filter or ids cannot be written as JSON.
    """
    rows = {contract.EMBEDDING.name: np.empty((1, 0), np.float32)}
    parameters = looking.parameters(like=id_)
    return Call(contract.FAISS.giving(*contract.HITS), rows, parameters, _hits)


def ingest(record: Record) -> Call[list[int]]:
    """Embeds and stores a record; gives the one sequence number of the change.

    Raises:
        InvalidInputError: The item is empty, or id or document cannot be written.
    """
    rows = {**to_rows([record.item]), **_named([record.id], [record.document])}
    parameters = {contract.DIGEST: record.digest()}
    return Call(contract.INGEST.giving(contract.SEQUENCE), rows, parameters, _sequences, True)


def upsert(
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    documents: Sequence[Mapping[str, Any]] | None,
    profile: str,
) -> list[Call[list[int]]]:
    """Stores vectors (N, D) float32; gives sequence numbers, in as many calls as are needed.

    Raises:
        InvalidInputError: Lengths differ, or an id or a document cannot be written.
    """
    said = [{}] * len(ids) if documents is None else documents
    if not len(ids) == len(vectors) == len(said):
        raise InvalidInputError(
            f"{len(ids)} ids, {len(vectors)} vectors, {len(said)} documents", field="vectors"
        )
    return [
        Call(
            _WRITE,
            _store_rows(ids[part], vectors[part], said[part]),
            {contract.PROFILE: profile},
            _sequences,
            True,
        )
        for part in _parts(len(ids))
    ]


def delete(ids: Sequence[str]) -> list[Call[list[int]]]:
    """Removes items; gives sequence numbers, in as many calls as are needed.

    Raises:
        InvalidInputError: An id is not valid Unicode.
    """
    said = {contract.OPERATION: contract.DELETE}
    return [
        Call(_WRITE, _store_rows(ids[part]), said, _sequences, True) for part in _parts(len(ids))
    ]


def get(id_: str) -> Call[Stored | None]:
    """Reads what is stored under an id; gives None if nothing is.

    Raises:
        InvalidInputError: The id is not valid Unicode.
    """

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


def stats() -> Call[dict[str, Any]]:
    """Asks what the index is; gives a JSON object."""

    def read(rows: Rows) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(rows[contract.STORED_DOCUMENT.name][0, 0])
        return found

    return Call(_READ, _store_rows([""]), {contract.OPERATION: contract.STATS}, read)


def measured(call: Call[list[T]]) -> Call[list[Measured[T]]]:
    """The same call, with what it took beside each result."""
    whole = contract.ALL_MODELS[call.model.name]
    named = {tensor.name: tensor for tensor in whole.outputs}
    extra = [
        tensor
        for tensor in (contract.TOKENS, contract.MADE_UNDER, *contract.TIMES)
        if tensor.name in named
    ]
    made_under = contract.MADE_UNDER in extra

    def read(rows: Rows) -> list[Measured[T]]:
        results = call.read(rows)
        times = {
            tensor.name.removesuffix("_ms"): float(rows[tensor.name][0, 0])
            for tensor in extra
            if tensor in contract.TIMES
        }
        counts = rows.get(contract.TOKENS.name)
        tokens = [0] * len(results) if counts is None else counts[:, 0].tolist()
        profile = rows[contract.MADE_UNDER.name][0, 0].decode() if made_under else ""
        return [Measured(*one, times, profile) for one in zip(results, tokens, strict=True)]

    asked = call.model.giving(*call.model.outputs, *extra)
    return Call(asked, call.rows, call.parameters, read, call.writes)


def embedder_called(name: str) -> contract.Model:
    """The ensemble of an embedder.

    Raises:
        InvalidInputError: There is none of that name.
    """
    if name not in contract.EMBEDDERS:
        raise InvalidInputError(
            f"{name!r}; expected one of {', '.join(contract.EMBEDDERS)}", field="embedder"
        )
    return contract.EMBEDDERS[name]


def unchanged(stored: Stored | None, record: Record) -> int:
    """The sequence number of what is stored, if it was made from this very record; else 0."""
    return stored.sequence if stored is not None and stored.digest == record.digest() else 0


def given(**values: str | int | None) -> Parameters:
    """Request parameters that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def json_text(value: object, field: str) -> str:
    """A value as JSON text.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"it cannot be written as JSON: {error}", field=field) from error


def _parts(count: int) -> list[slice]:
    step = contract.MAX_BATCH_SIZE
    return [slice(start, start + step) for start in range(0, count, step)]


def _hits(rows: Rows) -> list[list[Hit]]:
    columns = [rows[tensor.name].tolist() for tensor in contract.HITS]
    return [
        [
            Hit(id_.decode(), score, json.loads(document))
            for id_, score, document in zip(*row, strict=True)
            if id_ != contract.NO_ID
        ]
        for row in zip(*columns, strict=True)
    ]


def _sequences(rows: Rows) -> list[int]:
    found: list[int] = rows[contract.SEQUENCE.name][:, 0].tolist()
    return found


def _named(ids: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> Rows:
    """`id` and `document`, (B, 1) objects of bytes."""
    said = [json_text(document, contract.DOCUMENT.name).encode() for document in documents]
    return {
        contract.ID.name: np.array([[_encoded(id_)] for id_ in ids], np.object_),
        contract.DOCUMENT.name: np.array([[one] for one in said], np.object_),
    }


def _encoded(id_: str) -> bytes:
    try:
        return id_.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{id_!r} is not valid Unicode", field="id") from error


def _store_rows(
    ids: Sequence[str],
    vectors: NDArray[np.float32] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> Rows:
    """Inputs of `store`; where it needs no vector, one of length 0."""
    rows = _named(ids, [{}] * len(ids) if documents is None else documents)
    none = np.empty((len(ids), 0), np.float32)
    rows[contract.EMBEDDING.name] = none if vectors is None else np.asarray(vectors, np.float32)
    return rows
