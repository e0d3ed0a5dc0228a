"""The result of `lensemble compare`: quality and cost of each embedder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lensemble_evaluation.evaluate import MetricsRow

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class EmbeddingCost:
    """Latency, throughput and cost of one embedder.

    Attributes:
        latency_ms: `p50`, `p95`, `p99` of calls with one item, one call at a time.
        samples: Number of calls in `latency_ms`.
        items_per_s: `median`, `least`, `most` over blocks, with several calls at the same time.
        blocks: Number of blocks in `items_per_s`.
        tokens_per_item: Mean number of tokens over all items, the chat server's tokens included.
        server_s_per_1000: Seconds for which 1,000 items occupy the server.
        price_per_1000: Price of these seconds, in the currency of the server's price; None if no
            price was given.
    """

    latency_ms: dict[str, float]
    samples: int
    items_per_s: dict[str, float]
    blocks: int
    tokens_per_item: float
    server_s_per_1000: float
    price_per_1000: float | None


@dataclass(frozen=True, slots=True)
class EmbedderResult:
    """The figures of one embedder.

    Attributes:
        embedder: Name of the embedder.
        error: Why there are no figures (the server has not loaded the embedder, or it refused an
            item); empty if there are figures.
        profile: Hash of the profile under which its vectors were made.
        dimension: Length of its vectors.
        without_instruction: Number of items that were embedded without their instruction, because
            the embedder takes none.
        quality: Metrics per task and language.
        cost: Latency, throughput and cost; None if there are no figures.
    """

    embedder: str
    error: str = ""
    profile: str = ""
    dimension: int = 0
    without_instruction: int = 0
    quality: list[MetricsRow] = field(default_factory=list)
    cost: EmbeddingCost | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of several embedders, side by side.

    Attributes:
        dataset: Name of the dataset.
        split: Name of the split.
        server: The server's name and version.
        corpus: Number of items that were searched.
        queries: Number of queries.
        concurrency: Number of calls that ran at the same time when throughput was measured.
        price_per_hour: Price of the server; None if it was not given.
        embedders: Results, in the order in which the embedders were named.
    """

    dataset: str
    split: str
    server: str
    corpus: int
    queries: int
    concurrency: int
    price_per_hour: float | None
    embedders: list[EmbedderResult]


def summarize_cost(
    latencies_s: Sequence[float],
    items_per_s: Sequence[float],
    tokens: Sequence[int],
    price_per_hour: float | None,
) -> EmbeddingCost:
    """Computes latency, throughput and cost from measured times.

    At r items per second, 1,000 items occupy the server for 1000 / r seconds; at a price p per
    hour, each of these seconds costs p / 3600. Percentiles are interpolated linearly.

    Args:
        latencies_s: Duration of each call in seconds; at least one.
        items_per_s: Throughput of each block in items per second; at least one.
        tokens: Number of tokens of each item; at least one.
        price_per_hour: Price of the server; None if it is not known.
    """
    latencies_ms = np.percentile(np.asarray(latencies_s) * 1000, PERCENTILES)
    median_rate = float(np.median(items_per_s))
    server_s = 1000 / median_rate
    return EmbeddingCost(
        {f"p{p}": float(value) for p, value in zip(PERCENTILES, latencies_ms, strict=True)},
        len(latencies_s),
        {"median": median_rate, "least": min(items_per_s), "most": max(items_per_s)},
        len(items_per_s),
        float(np.mean(tokens)),
        server_s,
        None if price_per_hour is None else price_per_hour * server_s / 3600,
    )
