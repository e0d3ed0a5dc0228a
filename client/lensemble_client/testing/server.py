"""A fake server in memory, which answers the requests of both clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lensemble_client.results import Embedding
from lensemble_client.testing.answers import hit_rows, stored_rows
from lensemble_client.testing.index import FakeIndex, FakeUpsert, SearchConditions
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
from lensemble_contract.filters import MAX_BYTES, parse_filter
from lensemble_contract.index_checks import check_id
from lensemble_contract.items import Item, Rows, blank_rows, from_rows
from lensemble_contract.parameters import ids, number, text, whole_number

_TIME_MS = 1.0


class FakeServer:
    """Answers requests from memory. Several clients, and several threads, may share one.

    It refuses what the real server refuses, except pictures: it does not decode them, so any bytes
    are accepted as one. Put an error into `errors` to have a picture refused.

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
        items = self._items(model, rows)
        vectors = np.stack([np.asarray(self._embed(item), np.float32) for item in items])
        self.embedded += items
        tokens = [[max(1, len((item.text or "").split()))] for item in items]
        counts = {contract.TOKENS.name: np.array(tokens, np.int32)}
        if model.name == contract.SEARCH.name:
            return counts | self._search(_cut(vectors, parameters), parameters)
        if model.name == contract.INGEST.name:
            return counts | self._store(rows, vectors, parameters)
        profiles = np.full((len(items), 1), self.profile.encode(), np.object_)
        vectors = _cut(vectors, parameters)
        return counts | {contract.EMBEDDING.name: vectors, contract.VECTOR_PROFILE.name: profiles}

    def _items(self, model: contract.Model, rows: Rows) -> list[Item]:
        others = contract.EMBEDDERS.keys() - set(contract.EMBEDDERS_WITH_INSTRUCTION)
        takes_instruction = model.name not in {contract.EMBEDDERS[name].name for name in others}
        names = [tensor.name for tensor in contract.ITEM]
        items = []
        for item in from_rows({name: rows.get(name) for name in names}):
            if isinstance(item, LensembleError):
                raise item
            if item.instruction and not takes_instruction:
                raise InvalidInputError(
                    f"{model.name} takes no instruction", field=contract.INSTRUCTION.name
                )
            for content in (item.text, *item.images):
                if content is not None and content in self.errors:
                    raise self.errors[content]
            items.append(item)
        return items

    def _search(self, vectors: Embedding, parameters: Parameters) -> Rows:
        top_k = whole_number(parameters, contract.TOP_K)
        if top_k is None:
            top_k = contract.DEFAULT_TOP_K
        if not 1 <= top_k <= contract.MAX_TOP_K:
            raise InvalidInputError(
                f"{top_k}; expected 1 to {contract.MAX_TOP_K}", field=contract.TOP_K
            )
        self._check_profile(parameters)
        like = text(parameters, contract.LIKE)
        condition = text(parameters, contract.FILTER, MAX_BYTES)
        exclude = ids(parameters, contract.EXCLUDE, contract.MAX_EXCLUDED)
        min_score = number(parameters, contract.MIN_SCORE, -np.inf)
        if like:
            check_id(like, contract.LIKE)
            if like not in self.index.items:
                raise NotFoundError(f"no item {like!r} in the index", field=contract.LIKE)
            vectors, exclude = self.index.items[like].embedding[None], (*exclude, like)
        conditions = SearchConditions(top_k, parse_filter(condition or "{}"), exclude, min_score)
        hits = [self.index.search(vector, conditions) for vector in vectors]
        return hit_rows(hits, self.index.warnings(conditions.filter))

    def _store(self, rows: Rows, vectors: Embedding, parameters: Parameters) -> Rows:
        operation = parameters.get(contract.OPERATION, contract.UPSERT)
        item_ids = [id_.decode() for id_ in rows[contract.ID.name][:, 0]]
        if operation == contract.STATS:
            return stored_rows([(0, None, json.dumps(self._stats()))] * len(item_ids))
        if operation == contract.GET:
            found = [self.index.items.get(check_id(id_)) for id_ in item_ids]
            return stored_rows(
                [
                    (item.sequence, item, json.dumps(item.document)) if item else (0, None, "")
                    for item in found
                ]
            )
        if operation in (contract.LIST, contract.COUNT):
            listed = [self._listed(operation, id_, parameters) for id_ in item_ids]
            return stored_rows([(0, None, text_) for text_ in listed])
        if not self._writes:
            raise ReadOnlyError("this server takes no writes")
        digest = text(parameters, contract.DIGEST)
        documents = [document.decode() for document in rows[contract.DOCUMENT.name][:, 0]]
        if operation in (contract.PATCH, contract.SET_DOCUMENT):
            merge = operation == contract.PATCH
            changes = zip(item_ids, documents, strict=True)
            sequences = [self.index.change(*change, merge, digest) for change in changes]
            return stored_rows([(sequence, None, "") for sequence in sequences])
        if operation == contract.DELETE:
            return stored_rows([(sequence, None, "") for sequence in self.index.delete(item_ids)])
        self._check_profile(parameters)
        sequences = self.index.upsert(
            [
                FakeUpsert(id_, vector, document, digest)
                for id_, vector, document in zip(item_ids, vectors, documents, strict=True)
            ]
        )
        return stored_rows([(sequence, None, "") for sequence in sequences])

    def _listed(self, operation: str, after: str, parameters: Parameters) -> str:
        condition = parse_filter(text(parameters, contract.FILTER, MAX_BYTES) or "{}")
        limit = whole_number(parameters, contract.LIMIT)
        limit = contract.DEFAULT_LIST_LIMIT if limit is None else limit
        if not 1 <= limit <= contract.MAX_LIST_LIMIT:
            raise InvalidInputError(
                f"{limit}; expected 1 to {contract.MAX_LIST_LIMIT}", field=contract.LIMIT
            )
        found = self.index.matching(condition)
        if operation == contract.COUNT:
            return json.dumps({"count": len(found)})
        found = [item for item in found if item.id.encode() > after.encode()]
        names = ("id", "sequence", "digest", "document")
        items = [{name: getattr(item, name) for name in names} for item in found[:limit]]
        return json.dumps({"items": items, "next": items[-1]["id"] if len(found) > limit else None})

    def _check_profile(self, parameters: Parameters) -> None:
        profile = text(parameters, contract.PROFILE)
        if profile and profile != self.profile:
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
    length = whole_number(parameters, contract.DIMENSIONS)
    if length is None:
        return vectors
    if not 1 <= length <= full:
        raise InvalidInputError(f"{length}; expected 1 to {full}", field=contract.DIMENSIONS)
    if length == full:
        return vectors
    cut = vectors[:, :length]
    unit: Embedding = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return unit
