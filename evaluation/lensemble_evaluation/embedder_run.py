"""Measures one embedder: embeds a dataset, and records vectors and times."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from lensemble_client import calls
from lensemble_client.client import Client
from lensemble_client.results import Embedding, Measured
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item
from lensemble_corpus.entries import Entry
from lensemble_evaluation import ranking
from lensemble_evaluation.comparison import EmbedderResult, summarize_cost
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.evaluate import metrics_by_group


class EmbedderRun:
    """Embeds the items of a dataset with one embedder, and measures it.

    After a failure, further calls do nothing, so that the other embedders can be measured.

    Args:
        client: Client of a running server.
        name: Name of the embedder.
        entries: All items: the corpus, then the queries.

    Attributes:
        name: Name of the embedder.
        error: Why the embedder failed; empty if it has not.
    """

    def __init__(self, client: Client, name: str, entries: Sequence[Entry]) -> None:
        self.name, self.error = name, ""
        self._client, self._entries = client, entries
        self._embeddings: dict[int, Measured[Embedding]] = {}  # by position in `entries`
        self._latencies_s: list[float] = []
        self._items_per_s: list[float] = []
        self._takes_instruction = name in contract.EMBEDDERS_WITH_INSTRUCTION

    def warm_up(self) -> None:
        """Embeds a text, and a picture if the dataset has pictures. Neither is from the dataset."""
        items = [Item("warm up")]
        if any(entry.images for entry in self._entries):
            items.append(Item(images=(_noise_picture(),)))
        self._unless_failed(lambda: [self._embed(item) for item in items])

    def embed_one(self, position: int) -> None:
        """Embeds one item in one call, and records the call's latency."""

        def call() -> None:
            item = self._load_item(position)  # reading files is not part of the latency
            start = time.perf_counter()
            self._embeddings[position] = self._embed_entry(position, item)
            self._latencies_s.append(time.perf_counter() - start)

        self._unless_failed(call)

    def embed_block(self, positions: Sequence[int], pool: ThreadPoolExecutor) -> None:
        """Embeds many items with several calls at the same time, and records the throughput."""

        def call() -> None:
            items = [self._load_item(position) for position in positions]
            start = time.perf_counter()
            embeddings = list(pool.map(self._embed_entry, positions, items))
            self._items_per_s.append(len(positions) / (time.perf_counter() - start))
            self._embeddings.update(zip(positions, embeddings, strict=True))

        self._unless_failed(call)

    def result(self, dataset: Dataset, price_per_hour: float | None) -> EmbedderResult:
        """Computes quality and cost; call it when every item is embedded."""
        if self.error:
            return EmbedderResult(self.name, self.error)
        embeddings = [self._embeddings[position] for position in range(len(self._entries))]
        vectors = np.stack([embedding.result for embedding in embeddings])
        corpus, queries = np.split(vectors, [len(dataset.corpus)])
        dimension = vectors.shape[1]
        left_out = 0
        if not self._takes_instruction:
            left_out = sum(bool(entry.instruction) for entry in self._entries)
        tokens = [embedding.tokens for embedding in embeddings]
        return EmbedderResult(
            self.name,
            "",
            embeddings[0].profile,
            dimension,
            left_out,
            metrics_by_group(dataset, {dimension: ranking.exact_ranks(dataset, queries, corpus)}),
            summarize_cost(self._latencies_s, self._items_per_s, tokens, price_per_hour),
        )

    def _unless_failed(self, step: Callable[[], object]) -> None:
        if not self.error:
            try:
                step()
            except LensembleError as error:
                self.error = str(error)

    def _load_item(self, position: int) -> Item:
        item = self._entries[position].item()
        return item if self._takes_instruction else dataclasses.replace(item, instruction=None)

    def _embed_entry(self, position: int, item: Item) -> Measured[Embedding]:
        """Embeds an item. An error names it."""
        try:
            return self._embed(item)
        except LensembleError as error:
            raise ranking.error_of_entry(error, self._entries[position]) from error

    def _embed(self, item: Item) -> Measured[Embedding]:
        return self._client.run(calls.measured(calls.embed([item], None, self.name)))[0]


def _noise_picture() -> bytes:
    """Returns a picture of random pixels. It is new each time, so no cache has its vector."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng().integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
