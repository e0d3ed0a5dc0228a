"""The calls that embed items and search for their neighbours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensemble_client.calls.call import Call, json_text, without_none
from lensemble_client.results import Embedding, Hit, Hits
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.index_checks import check_id, check_ids
from lensemble_contract.items import Item, Rows, to_rows
from lensemble_contract.texts import quoted

# The warnings of an answer without them.
_NONE = np.empty((0, 1), np.object_)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The conditions of a search, for any kind of query.

    Attributes:
        top_k: Largest number of hits, 1 to `contract.MAX_TOP_K`.
        filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
        exclude: Ids of items that must not be among the hits; any collection of strings, which is
            kept as a tuple.
        min_score: Smallest score of a hit; None sets no limit.

    Raises:
        InvalidInputError: `exclude` is a single string, or an id in it is not valid.
    """

    top_k: int = contract.DEFAULT_TOP_K
    filter: Mapping[str, Any] | None = None
    exclude: Iterable[str] = ()
    min_score: float | None = None

    def __post_init__(self) -> None:
        # Several requests may have these options, and a generator can be read only once.
        object.__setattr__(self, "exclude", tuple(check_ids(self.exclude, contract.EXCLUDE)))

    def parameters(self, **others: str | int | None) -> Parameters:
        """Returns these options, and others that are not None, as request parameters.

        Raises:
            InvalidInputError: The filter cannot be written as JSON, or a number is none.
        """
        return without_none(
            top_k=self.top_k,
            filter=json_text(self.filter, contract.FILTER) if self.filter else None,
            exclude=json_text(self.exclude, contract.EXCLUDE) if self.exclude else None,
            min_score=None if self.min_score is None else _score_text(self.min_score),
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
) -> Call[list[Hits]]:
    """Searches for the neighbours of items; the result is one list of hits for each, nearest first.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.
        options: The conditions of the search.
        dimensions: Length that the index's vectors must have; None accepts any length.

    Raises:
        InvalidInputError: An item is empty, the filter cannot be written as JSON, or an id is not
            valid.
    """
    parameters = options.parameters(dimensions=dimensions)
    return Call(_returning_hits(contract.SEARCH, options), to_rows(items), parameters, _hits)


def search_vector(
    vector: Sequence[float] | Embedding, options: SearchOptions, profile: str | None
) -> Call[list[Hits]]:
    """Searches for the neighbours of a vector (D,); the result is one list of hits, nearest first.

    Raises:
        InvalidInputError: The vector is not a list of numbers, the filter cannot be written as
            JSON, or an id is not valid.
    """
    rows = {contract.EMBEDDING.name: _numbers(vector)[None]}
    parameters = options.parameters(profile=profile)
    return Call(_returning_hits(contract.FAISS, options), rows, parameters, _hits)


def more_like(id_: str, options: SearchOptions) -> Call[list[Hits]]:
    """Searches for the neighbours of a stored item; the result is one list of hits, nearest first.

    Raises:
        InvalidInputError: An id is not valid, or the filter cannot be written as JSON.
    """
    check_id(id_, contract.LIKE)  # on the wire, an empty id means a search with a vector
    rows = {contract.EMBEDDING.name: np.empty((1, 0), np.float32)}
    parameters = options.parameters(like=id_)
    return Call(_returning_hits(contract.FAISS, options), rows, parameters, _hits)


def _numbers(vector: Sequence[float] | Embedding) -> Embedding:
    """The vector as an array (D,), float32."""
    try:
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused
            array = np.asarray(vector, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{quoted(vector)}; expected a list of numbers ({error})", field=contract.EMBEDDING.name
        ) from error
    if array.ndim != 1:
        raise InvalidInputError(
            f"an array of shape {array.shape}; expected one vector, of shape (D,)",
            field=contract.EMBEDDING.name,
        )
    return array


def _score_text(score: float) -> str:
    try:
        return repr(float(score))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"{quoted(score)}; expected a number", field=contract.MIN_SCORE
        ) from error


def _returning_hits(model: contract.Model, options: SearchOptions) -> contract.Model:
    """The model with the outputs of a search; only a filter has warnings."""
    return model.with_outputs(*contract.HITS, *([contract.WARNINGS] if options.filter else []))


def _hits(rows: Rows) -> list[Hits]:
    columns = [rows[tensor.name].tolist() for tensor in contract.HITS]
    warnings = [json.loads(text) for text in rows.get(contract.WARNINGS.name, _NONE)[:, 0]]
    return [
        Hits(
            (
                Hit(id_.decode(), score, json.loads(document))
                for id_, score, document in zip(*row, strict=True)
                if id_ != contract.NO_ID
            ),
            own_warnings,
        )
        for row, own_warnings in zip(
            zip(*columns, strict=True), warnings or [()] * len(columns[0]), strict=True
        )
    ]
