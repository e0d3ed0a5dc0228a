"""Makes the outputs of the fake server's models."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from lensemble_client.results import Hit, Stored
from lensemble_contract import contract
from lensemble_contract.items import Rows


def hit_rows(results: Sequence[Sequence[Hit]], warnings: Sequence[str]) -> Rows:
    """Returns hits, and the warnings of all rows, as the outputs of a search.

    Shorter rows are padded.
    """
    shape = (len(results), max(len(hits) for hits in results))
    ids = np.full(shape, contract.NO_ID, np.object_)
    scores = np.full(shape, -1, np.float32)
    documents = np.full(shape, b"{}", np.object_)
    for row, hits in enumerate(results):
        for column, hit in enumerate(hits):
            ids[row, column] = hit.id.encode()
            scores[row, column] = hit.score
            documents[row, column] = json.dumps(hit.document).encode()
    rows = dict(
        zip((tensor.name for tensor in contract.HITS), (ids, scores, documents), strict=True)
    )
    text = json.dumps(list(warnings)).encode()
    return {**rows, contract.WARNINGS.name: np.full((len(results), 1), text, np.object_)}


def stored_rows(results: Sequence[tuple[int, Stored | None, str]]) -> Rows:
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
