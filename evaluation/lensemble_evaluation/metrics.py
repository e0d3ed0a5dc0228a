"""Retrieval metrics, from the ranks of the relevant items alone.

The definitions are trec_eval's, to which the tests compare: gain is the judgment itself, discount
log2(rank + 1). `recall_cap` is BEIR's, for queries with more relevant items than k: plain recall
cannot reach 1 there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 5, 10)
NAMES = (*(f"recall@{k}" for k in CUTOFFS), "recall_cap@10", "ndcg@10", "mrr")

Ranks = NDArray[np.float64]
"""(R,) from 1, infinite where an item was not found."""


def of_query(ranks: Ranks, relevance: Sequence[int]) -> dict[str, float]:
    """Metrics of one query.

    Args:
        ranks: (R,) of its relevant items.
        relevance: (R,) how relevant each is, 1 or more.

    Returns:
        Name in `NAMES` -> value, 0 to 1.
    """
    gains = np.asarray(relevance, np.float64)
    found = ranks <= 10
    ideal = np.sort(gains)[::-1][:10]
    values = {f"recall@{k}": float((ranks <= k).mean()) for k in CUTOFFS}
    values["recall_cap@10"] = float(found.sum() / min(10, len(ranks)))
    values["ndcg@10"] = float(
        (gains[found] / np.log2(ranks[found] + 1)).sum()
        / (ideal / np.log2(np.arange(len(ideal)) + 2)).sum()
    )
    values["mrr"] = float(1 / ranks.min())
    return values


def mean(queries: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over queries.

    Args:
        queries: At least one.
    """
    return {name: float(np.mean([query[name] for query in queries])) for name in NAMES}
