"""Computes retrieval metrics from the ranks of the relevant items.

The definitions are those of trec_eval, with which the tests compare them. The gain of an item is
its relevance judgment, and the discount of a rank is log2(rank + 1). `recall_cap@10` is BEIR's
capped recall. It can reach 1 for a query with more than 10 relevant items; plain recall@10 cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 5, 10)
NAMES = (*(f"recall@{k}" for k in CUTOFFS), "recall_cap@10", "ndcg@10", "mrr")

# (R,) ranks of a query's relevant items, from 1; infinite where an item was not found.
Ranks: TypeAlias = NDArray[np.float64]


def query_metrics(ranks: Ranks, relevance: Sequence[int]) -> dict[str, float]:
    """Computes the metrics of one query.

    Args:
        ranks: (R,) ranks of its relevant items.
        relevance: (R,) relevance of each, 1 or more.

    Returns:
        Name in `NAMES` -> value, 0 to 1.
    """
    gains = np.asarray(relevance, np.float64)
    in_first_10 = ranks <= 10
    ideal = np.sort(gains)[::-1][:10]
    values = {f"recall@{k}": float((ranks <= k).mean()) for k in CUTOFFS}
    values["recall_cap@10"] = float(in_first_10.sum() / min(10, len(ranks)))
    values["ndcg@10"] = float(
        (gains[in_first_10] / np.log2(ranks[in_first_10] + 1)).sum()
        / (ideal / np.log2(np.arange(len(ideal)) + 2)).sum()
    )
    values["mrr"] = float(1 / ranks.min())
    return values


def mean_metrics(queries: Sequence[dict[str, float]]) -> dict[str, float]:
    """Computes the mean of each metric over queries.

    Args:
        queries: Metrics of each query; at least one.
    """
    return {name: float(np.mean([query[name] for query in queries])) for name in NAMES}
