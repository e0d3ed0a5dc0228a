"""The result of `lensemble compare`: quality and cost of each embedder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lensemble_evaluation.evaluate import MetricsRow

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class EmbeddingCost:
    """Latency, throughput and cost of one embedder.

    Attributes:
        latency_ms: `p50`, `p95`, `p99` of calls with one item, one call at a time.
        samples: number of these calls.
        items_per_s: `median`, `least`, `most` over blocks, with many calls in flight.
        blocks: number of these blocks.
        tokens_per_item: mean over all items; includes the chat server's tokens.
        server_s_per_1000: seconds for which 1,000 items occupy the server.
        price_per_1000: price of these seconds, in the currency of the price; None without a price.
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
    """Figures of one embedder.

    Attributes:
        embedder: name.
        error: why there are no figures (the server has not loaded the embedder, or it refused an
            item); empty if there are figures.
        profile: hash of the profile under which its vectors were made.
        dimension: length of its vectors.
        without_instruction: number of items that were embedded without their instruction, because
            the embedder takes none.
        quality: metrics per task and language.
        cost: latency, throughput and cost; None without figures.
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
    """Embedders side by side.

    Attributes:
        dataset: name of the dataset.
        split: name of the split.
        server: the server's name and version.
        corpus: number of items that were searched.
        queries: number of queries.
        concurrency: calls in flight at a time when throughput was measured.
        price_per_hour: price of the server; None if it was not given.
        embedders: results, in the order in which the embedders were named.
    """

    dataset: str
    split: str
    server: str
    corpus: int
    queries: int
    concurrency: int
    price_per_hour: float | None
    embedders: list[EmbedderResult]

    def to_json(self) -> dict[str, Any]:
        """The fields as `lensemble compare --json` writes them."""
        return asdict(self)


def summarize_cost(
    latencies_s: Sequence[float],
    rates: Sequence[float],
    tokens: Sequence[int],
    price_per_hour: float | None,
) -> EmbeddingCost:
    """Summarizes measured times.

    At r items per second, 1,000 items occupy the server for 1000 / r seconds; at a price p per
    hour, each of these seconds costs p / 3600. Percentiles are interpolated linearly.

    Args:
        latencies_s: duration of each call in seconds; at least one.
        rates: items per second of each block; at least one.
        tokens: number of tokens of each item; at least one.
        price_per_hour: price of the server; None if it is not known.
    """
    latencies_ms = np.percentile(np.asarray(latencies_s) * 1000, PERCENTILES)
    rate = float(np.median(rates))
    server_s = 1000 / rate
    return EmbeddingCost(
        {f"p{p}": float(value) for p, value in zip(PERCENTILES, latencies_ms, strict=True)},
        len(latencies_s),
        {"median": rate, "least": min(rates), "most": max(rates)},
        len(rates),
        float(np.mean(tokens)),
        server_s,
        None if price_per_hour is None else price_per_hour * server_s / 3600,
    )
