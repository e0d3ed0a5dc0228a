"""The calls that embed items and search for their neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensemble_client.calls.call import Call, json_text, without_none
from lensemble_client.results import Embedding, Hit
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Item, Rows, to_rows


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The conditions of a search, for any kind of query.

    Attributes:
        top_k: Largest number of hits, 1 to `contract.MAX_TOP_K`.
        filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
        exclude: Ids of items that must not be among the hits.
        min_score: Smallest score of a hit; None sets no limit.
    """

    top_k: int = contract.DEFAULT_TOP_K
    filter: Mapping[str, Any] | None = None
    exclude: Sequence[str] = ()
    min_score: float | None = None

    def parameters(self, **others: str | int | None) -> Parameters:
        """Returns these options, and others that are not None, as request parameters.

        Raises:
            InvalidInputError: The filter or the ids cannot be written as JSON.
        """
        return without_none(
            top_k=self.top_k,
            filter=json_text(self.filter, contract.FILTER) if self.filter else None,
            exclude=json_text(list(self.exclude), contract.EXCLUDE) if self.exclude else None,
            min_score=None if self.min_score is None else repr(float(self.min_score)),
            **others,
        )


def embedder_model(name: str) -> contract.Model:
    """Returns the ensemble of an embedder.

    Raises:
        InvalidInputError: There is no embedder of that name.
    """
    if name not in contract.EMBEDDERS:
        raise InvalidInputError(
            f"{name!r}; expected one of {', '.join(contract.EMBEDDERS)}", field="embedder"
        )
    return contract.EMBEDDERS[name]


def embed(
    items: Sequence[Item], dimensions: int | None, embedder: str = contract.NATIVE
) -> Call[list[Embedding]]:
    """Embeds items; the result is one vector (D,) for each.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.
        dimensions: Matryoshka length of the vectors; None takes the profile's full length.
        embedder: Name of the embedder, a key of `contract.EMBEDDERS`.

    Raises:
        InvalidInputError: An item is empty, or there is no embedder of that name.
    """
    return Call(
        embedder_model(embedder).with_outputs(contract.EMBEDDING),
        to_rows(items),
        without_none(dimensions=dimensions),
        lambda rows: list(rows[contract.EMBEDDING.name]),
    )


def search(
    items: Sequence[Item], options: SearchOptions, dimensions: int | None
) -> Call[list[list[Hit]]]:
    """Searches for the neighbours of items; the result is one list of hits for each, nearest first.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.
        options: The conditions of the search.
        dimensions: Length that the index's vectors must have; None accepts any length.

    Raises:
        InvalidInputError: An item is empty, or the filter or the ids cannot be written as JSON.
    """
    parameters = options.parameters(dimensions=dimensions)
    return Call(_returning_hits(contract.SEARCH), to_rows(items), parameters, _hits)


def search_vector(
    vector: Sequence[float] | Embedding, options: SearchOptions, profile: str | None
) -> Call[list[list[Hit]]]:
    """Searches for the neighbours of a vector (D,); the result is one list of hits, nearest first.

    Raises:
        InvalidInputError: The filter or the ids cannot be written as JSON.
    """
    rows = {contract.EMBEDDING.name: np.array([vector], np.float32)}
    parameters = options.parameters(profile=profile)
    return Call(_returning_hits(contract.FAISS), rows, parameters, _hits)


def more_like(id_: str, options: SearchOptions) -> Call[list[list[Hit]]]:
    """Searches for the neighbours of a stored item; the result is one list of hits, nearest first.

    Raises:
        InvalidInputError: The id is empty, or the filter or the ids cannot be written as JSON.
    """
    if not id_:  # on the wire, an empty id means a search with a vector
        raise InvalidInputError(
            "the id is empty; expected the id of a stored item", field=contract.LIKE
        )
    rows = {contract.EMBEDDING.name: np.empty((1, 0), np.float32)}
    parameters = options.parameters(like=id_)
    return Call(_returning_hits(contract.FAISS), rows, parameters, _hits)


def _returning_hits(model: contract.Model) -> contract.Model:
    return model.with_outputs(*contract.HITS)


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
