"""Embedders side by side on one dataset and one server: `lensemble compare`.

Every item is embedded once by every embedder, in an order that is the same for all: some of them
one call at a time, for latency, the others in blocks with many calls under way, for throughput.
Embedders take turns, call by call and block by block, so that whatever else the machine does meets
all alike. Quality comes from the very same vectors, ranked exactly.
"""

from __future__ import annotations

import dataclasses
import io
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lensemble_client import calls
from lensemble_client.calls import Embedding, Measured
from lensemble_client.client import Client
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item
from lensemble_corpus.entries import Entry
from lensemble_evaluation import rank
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.evaluate import Row, rows_of

SAMPLES = 100
"""Calls for latency, of each embedder."""
BLOCKS = 5
"""Parts of the other items; throughput is measured over each."""
PERCENTILES = (50, 95, 99)

Vectors = dict[int, Measured[Embedding]]
"""Place of an item -> its vector."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What embedding takes.

    Attributes:
        latency_ms: `p50`, `p95`, `p99` of calls with one item, one at a time.
        samples: How many calls that was.
        items_per_s: `median`, `least`, `most` over blocks, with `concurrency` calls under way.
        blocks: How many blocks that was.
        tokens_per_item: Mean, those of the chat server included.
        server_s_per_1000: Seconds that the server is taken for 1,000 items.
        price_per_1000: That, in the currency of the price; None without a price.
    """

    latency_ms: dict[str, float]
    samples: int
    items_per_s: dict[str, float]
    blocks: int
    tokens_per_item: float
    server_s_per_1000: float
    price_per_1000: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What was measured of one embedder.

    Attributes:
        embedder: Name.
        error: Why there are no figures: the server has not loaded it, or it refused an item; empty
            if there are.
        profile: Hash of the profile that its vectors were made under.
        dimension: Length of its vectors.
        without_instruction: Items whose instruction was left out, as it takes none.
        quality: Metrics per task and language.
        cost: What it takes.
    """

    embedder: str
    error: str = ""
    profile: str = ""
    dimension: int = 0
    without_instruction: int = 0
    quality: list[Row] = field(default_factory=list)
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Embedders side by side.

    Attributes:
        dataset: Name.
        split: Name.
        server: Name and version.
        corpus: Items that were searched.
        queries: That were asked.
        concurrency: Calls under way at a time, for throughput.
        price_per_hour: Of the server; None if not given.
        embedders: In the order asked for.
    """

    dataset: str
    split: str
    server: str
    corpus: int
    queries: int
    concurrency: int
    price_per_hour: float | None
    embedders: list[Compared]

    def to_json(self) -> dict[str, Any]:
        """As written by `lensemble compare --json`."""
        return asdict(self)


def compare(
    client: Client,
    dataset: Dataset,
    embedders: Sequence[str],
    *,
    concurrency: int = 16,
    samples: int = SAMPLES,
    price_per_hour: float | None = None,
    progress: bool = False,
) -> Comparison:
    """Measures quality, latency, throughput and cost of embedders.

    Args:
        client: Of a running server; it should try each call once, as tries again count as latency.
        dataset: What to ask.
        embedders: Names, of `contract.EMBEDDERS`.
        concurrency: Calls under way at a time, for throughput.
        samples: Calls for latency, at most half of the items.
        price_per_hour: Of the server, in any currency.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: An unknown embedder, none, or one twice; or a number out of range.
        NotReadyError: The server cannot be reached.
    """
    _check(embedders, concurrency, samples, price_per_hour)
    server = client.status().server
    loaded = client.embedders()
    entries = [*dataset.corpus, *dataset.queries]
    runs = [_Run(client, name, entries) for name in embedders]
    for run in runs:
        if run.name not in loaded:
            run.error = "the server has not loaded it"
    order = random.Random(0).sample(range(len(entries)), len(entries))
    alone = order[: min(samples, len(order) // 2)]
    rest = order[len(alone) :]
    blocks = [rest[n::BLOCKS] for n in range(min(BLOCKS, len(rest)))]
    total = len(entries) * len(runs)
    with (
        ThreadPoolExecutor(concurrency) as pool,
        tqdm(desc="compare", total=total, unit="item", disable=not progress) as bar,
    ):
        for run in runs:
            run.warm_up()
        for place in alone:
            for run in runs:
                run.alone(place)
                bar.update()
        for block in blocks:
            for run in runs:
                run.block(block, pool)
                bar.update(len(block))
    return Comparison(
        dataset.name,
        dataset.split,
        server,
        len(dataset.corpus),
        len(dataset.queries),
        concurrency,
        price_per_hour,
        [run.result(dataset, price_per_hour) for run in runs],
    )


def of_queries(dataset: Dataset, most: int) -> Dataset:
    """A dataset with fewer queries, drawn at random, the same ones each time; all of its corpus.

    Args:
        dataset: What to draw from.
        most: How many queries at most; 1 or more.
    """
    count = min(most, len(dataset.queries))
    chosen = sorted(random.Random(0).sample(range(len(dataset.queries)), count))
    queries = [dataset.queries[n] for n in chosen]
    qrels = {query.id: dataset.qrels[query.id] for query in queries}
    return dataclasses.replace(dataset, queries=queries, qrels=qrels)


def cost_of(
    latencies_s: Sequence[float],
    rates: Sequence[float],
    tokens: Sequence[int],
    price_per_hour: float | None,
) -> Cost:
    """Summary of what was measured.

    A server that embeds r items per second is taken for 1000 / r seconds by 1,000 items; at a price
    p per hour that costs p / 3600 as many times. Percentiles are interpolated linearly.

    Args:
        latencies_s: Seconds of calls, at least one.
        rates: Items per second of blocks, at least one.
        tokens: Of items, at least one.
        price_per_hour: Of the server; None if not known.
    """
    found = np.percentile(np.asarray(latencies_s) * 1000, PERCENTILES)
    rate = float(np.median(rates))
    server_s = 1000 / rate
    return Cost(
        {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)},
        len(latencies_s),
        {"median": rate, "least": min(rates), "most": max(rates)},
        len(rates),
        float(np.mean(tokens)),
        server_s,
        None if price_per_hour is None else price_per_hour * server_s / 3600,
    )


class _Run:
    """One embedder's turn after turn; once something fails it takes no more."""

    def __init__(self, client: Client, name: str, entries: Sequence[Entry]) -> None:
        self.name, self.error = name, ""
        self._client, self._entries = client, entries
        self._vectors: Vectors = {}
        self._latencies_s: list[float] = []
        self._rates: list[float] = []
        self._plain = name not in contract.INSTRUCTED

    def warm_up(self) -> None:
        """A text and, if there are any, a picture that are not the dataset's."""
        items = [Item("warm up")]
        if any(entry.images for entry in self._entries):
            items.append(Item(images=(_noise(),)))
        self._guarded(lambda: [self._embed(item) for item in items])

    def alone(self, place: int) -> None:
        """One call, with its latency."""

        def call() -> None:
            item = self._item(place)  # what is read from disk is no latency
            start = time.perf_counter()
            self._vectors[place] = self._named(place, item)
            self._latencies_s.append(time.perf_counter() - start)

        self._guarded(call)

    def block(self, places: Sequence[int], pool: ThreadPoolExecutor) -> None:
        """Many calls, with their throughput."""

        def call() -> None:
            items = [self._item(place) for place in places]
            start = time.perf_counter()
            found = list(pool.map(self._named, places, items))
            self._rates.append(len(places) / (time.perf_counter() - start))
            self._vectors.update(zip(places, found, strict=True))

        self._guarded(call)

    def result(self, dataset: Dataset, price_per_hour: float | None) -> Compared:
        """Quality from the vectors, and what they took."""
        if self.error:
            return Compared(self.name, self.error)
        made = [self._vectors[place] for place in range(len(self._entries))]
        vectors = np.stack([one.result for one in made])
        corpus, queries = np.split(vectors, [len(dataset.corpus)])
        left_out = sum(bool(entry.instruction) for entry in self._entries) if self._plain else 0
        return Compared(
            self.name,
            "",
            made[0].profile,
            vectors.shape[1],
            left_out,
            rows_of(dataset, {vectors.shape[1]: rank.exact(dataset, queries, corpus)}),
            cost_of(self._latencies_s, self._rates, [one.tokens for one in made], price_per_hour),
        )

    def _guarded(self, step: Callable[[], object]) -> None:
        if not self.error:
            try:
                step()
            except LensembleError as error:
                self.error = str(error)

    def _item(self, place: int) -> Item:
        item = self._entries[place].item()
        return dataclasses.replace(item, instruction=None) if self._plain else item

    def _named(self, place: int, item: Item) -> Measured[Embedding]:
        try:
            return self._embed(item)
        except LensembleError as error:
            id_ = self._entries[place].id
            raise type(error)(f"{id_!r}: {error.message}", field=error.field) from error

    def _embed(self, item: Item) -> Measured[Embedding]:
        return self._client.run(calls.measured(calls.embed([item], None, self.name)))[0]


def _noise() -> bytes:
    """A picture that nobody has seen: no cache knows it."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng().integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _check(
    embedders: Sequence[str], concurrency: int, samples: int, price_per_hour: float | None
) -> None:
    for name in embedders:
        calls.embedder_model(name)
    if not embedders or len(set(embedders)) < len(embedders):
        raise InvalidInputError(f"{list(embedders)}; expected each once", field="embedders")
    for field_, value in (("concurrency", concurrency), ("samples", samples)):
        if value < 1:
            raise InvalidInputError(f"{value}; expected 1 or more", field=field_)
    if price_per_hour is not None and not price_per_hour >= 0:
        raise InvalidInputError(f"{price_per_hour}; expected 0 or more", field="price")
