"""A fake server in memory, which answers the requests of both clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lensemble_client.results import Embedding, Hit, Stored
from lensemble_client.testing.index import FakeIndex, SearchConditions
from lensemble_client.testing.vectors import DIMENSION, vector_of
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotFoundError,
    NotReadyError,
    ReadOnlyError,
)
from lensemble_contract.filters import parse_filter
from lensemble_contract.items import Item, Rows, blank_rows, from_rows

_TIME_MS = 1.0


class FakeServer:
    """Answers requests from memory. Several clients, and several threads, may share one.

    Args:
        dimension: Length D of the vectors.
        profile: Hash of the profile that the server reports.
        writes: Whether the index may be changed.
        embedders: Names of the embedders that the server has, keys of `contract.EMBEDDERS`. All
            make the same vectors.
        embed: Function from an item to its vector (D,) float32 of unit length; None takes
            `vector_of`.

    Attributes:
        embedded: All items that were embedded, in the order in which their requests came.
        errors: Text or encoded picture -> the error of every request that contains it.
        failures: Errors of the next requests, in order. Each is used once.
        ready: Whether the server is ready; if not, every request is refused.
        profile: Hash of the profile that the server reports.
        index: The stored items.
    """

    def __init__(
        self,
        *,
        dimension: int = DIMENSION,
        profile: str = "sha256:fake",
        writes: bool = True,
        embedders: Sequence[str] = (contract.NATIVE,),
        embed: Callable[[Item], Embedding] | None = None,
    ) -> None:
        self._dimension, self._writes = dimension, writes
        self._embed = embed or (lambda item: vector_of(item, dimension))
        self._models = {contract.EMBEDDERS[name].name for name in embedders}
        self._models |= contract.MODELS.keys() - {contract.EMBED.name}
        self._lock = threading.Lock()
        self.profile, self.ready = profile, True
        self.embedded: list[Item] = []
        self.errors: dict[str | bytes, LensembleError] = {}
        self.failures: list[LensembleError] = []
        self.index = FakeIndex(dimension)

    def has(self, model: str) -> bool:
        """Whether a model can serve now."""
        return self.ready and model in self._models

    def answer(self, model: contract.Model, rows: Rows, parameters: Parameters) -> Rows:
        """Answers one request.

        Args:
            model: The model to run; its `outputs` are the ones that are returned.
            rows: Inputs of the model.
            parameters: Request parameters.

        Raises:
            LensembleError: The request is not valid, or the error is in `errors` or `failures`.
        """
        with self._lock:
            if not self.ready:
                raise NotReadyError("the fake server is not ready")
            if model.name not in self._models:
                raise NotFoundError(f"no model {model.name!r}")
            if parameters.get(contract.PING):
                return blank_rows(model.outputs)
            if self.failures:
                raise self.failures.pop(0)
            outputs = self._run(model, rows, parameters)
            count = len(next(iter(outputs.values())))
            outputs |= {
                tensor.name: np.full((count, 1), _TIME_MS) for tensor in contract.STAGE_TIMES
            }
            return {tensor.name: outputs[tensor.name] for tensor in model.outputs}

    def _run(self, model: contract.Model, rows: Rows, parameters: Parameters) -> Rows:
        if model.name == contract.STORE.name:
            return self._store(rows, rows[contract.EMBEDDING.name], parameters)
        if model.name == contract.FAISS.name:
            return self._search(rows[contract.EMBEDDING.name], parameters)
        items = self._items(rows)
        vectors = np.stack([np.asarray(self._embed(item), np.float32) for item in items])
        self.embedded += items
        tokens = [[max(1, len((item.text or "").split()))] for item in items]
        counts = {contract.TOKENS.name: np.array(tokens, np.int32)}
        if model.name == contract.SEARCH.name:
            return counts | self._search(vectors, parameters)
        if model.name == contract.INGEST.name:
            return counts | self._store(rows, vectors, parameters)
        profiles = np.full((len(items), 1), self.profile.encode(), np.object_)
        vectors = _cut(vectors, parameters)
        return counts | {contract.EMBEDDING.name: vectors, contract.VECTOR_PROFILE.name: profiles}

    def _items(self, rows: Rows) -> list[Item]:
        names = [tensor.name for tensor in contract.ITEM]
        items = []
        for item in from_rows({name: rows.get(name) for name in names}):
            if isinstance(item, LensembleError):
                raise item
            for content in (item.text, *item.images):
                if content is not None and content in self.errors:
                    raise self.errors[content]
            items.append(item)
        return items

    def _search(self, vectors: Embedding, parameters: Parameters) -> Rows:
        top_k = int(parameters.get(contract.TOP_K, contract.DEFAULT_TOP_K))
        if not 1 <= top_k <= contract.MAX_TOP_K:
            raise InvalidInputError(
                f"{top_k}; expected 1 to {contract.MAX_TOP_K}", field=contract.TOP_K
            )
        self._check_profile(parameters)
        exclude = json.loads(str(parameters.get(contract.EXCLUDE, "[]")))
        if like := str(parameters.get(contract.LIKE, "")):
            if like not in self.index.items:
                raise NotFoundError(f"no item {like!r} in the index", field=contract.LIKE)
            vectors, exclude = self.index.items[like].embedding[None], [*exclude, like]
        length = int(parameters.get(contract.DIMENSIONS, vectors.shape[1]))
        if length != self._dimension:
            raise InvalidInputError(
                f"length {length}; the index has {self._dimension}", field="embedding"
            )
        conditions = SearchConditions(
            top_k,
            parse_filter(str(parameters.get(contract.FILTER, "{}"))),
            exclude,
            float(parameters.get(contract.MIN_SCORE, -np.inf)),
        )
        return _hit_rows([self.index.search(vector, conditions) for vector in vectors])

    def _store(self, rows: Rows, vectors: Embedding, parameters: Parameters) -> Rows:
        operation = parameters.get(contract.OPERATION, contract.UPSERT)
        ids = [id_.decode() for id_ in rows[contract.ID.name][:, 0]]
        if operation == contract.STATS:
            return _stored_rows([(0, None, json.dumps(self._stats()))] * len(ids))
        if operation == contract.GET:
            found = [self.index.items.get(id_) for id_ in ids]
            return _stored_rows(
                [
                    (item.sequence, item, json.dumps(item.document)) if item else (0, None, "")
                    for item in found
                ]
            )
        if not self._writes:
            raise ReadOnlyError("this server takes no writes")
        if operation == contract.DELETE:
            return _stored_rows([(self.index.delete(id_), None, "") for id_ in ids])
        self._check_profile(parameters)
        digest = str(parameters.get(contract.DIGEST, ""))
        documents = rows[contract.DOCUMENT.name][:, 0]
        sequences = [
            self.index.upsert(id_, vector, document, digest)
            for id_, vector, document in zip(ids, vectors, documents, strict=True)
        ]
        return _stored_rows([(sequence, None, "") for sequence in sequences])

    def _check_profile(self, parameters: Parameters) -> None:
        profile = parameters.get(contract.PROFILE, self.profile)
        if profile != self.profile:
            raise InvalidInputError(
                f"{profile!r}; the server has {self.profile!r}", field=contract.PROFILE
            )

    def _stats(self) -> Mapping[str, Any]:
        return {
            "count": len(self.index.items),
            "dimension": self._dimension,
            "profile_name": "fake",
            "profile_hash": self.profile,
            "sequence": self.index.sequence,
        }


def _cut(vectors: Embedding, parameters: Parameters) -> Embedding:
    """Cuts vectors (B, D) to `dimensions`, and normalizes them again."""
    full = vectors.shape[1]
    length = int(parameters.get(contract.DIMENSIONS, full))
    if not 1 <= length <= full:
        raise InvalidInputError(f"{length}; expected 1 to {full}", field=contract.DIMENSIONS)
    if length == full:
        return vectors
    cut = vectors[:, :length]
    unit: Embedding = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return unit


def _hit_rows(results: Sequence[Sequence[Hit]]) -> Rows:
    """Returns hits as the outputs of a search. Shorter rows are padded."""
    shape = (len(results), max(len(hits) for hits in results))
    ids = np.full(shape, contract.NO_ID, np.object_)
    scores = np.full(shape, -1, np.float32)
    documents = np.full(shape, b"{}", np.object_)
    for row, hits in enumerate(results):
        for column, hit in enumerate(hits):
            ids[row, column] = hit.id.encode()
            scores[row, column] = hit.score
            documents[row, column] = json.dumps(hit.document).encode()
    return dict(
        zip((tensor.name for tensor in contract.HITS), (ids, scores, documents), strict=True)
    )


def _stored_rows(results: Sequence[tuple[int, Stored | None, str]]) -> Rows:
    """Returns the outputs of `store` for triples of sequence number, item and document."""
    no_vector = np.empty(0, np.float32)
    vectors = [no_vector if item is None else item.embedding for _, item, _ in results]
    digests = [b"" if item is None else item.digest.encode() for _, item, _ in results]
    documents = [document.encode() for _, _, document in results]
    return {
        contract.SEQUENCE.name: np.array([[sequence] for sequence, _, _ in results]),
        contract.STORED_DOCUMENT.name: np.array(documents, np.object_)[:, None],
        contract.STORED_DIGEST.name: np.array(digests, np.object_)[:, None],
        contract.STORED_EMBEDDING.name: np.array(vectors, np.float32),
    }
