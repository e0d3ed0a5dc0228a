"""`lensemble compare`: measures embedders side by side on one dataset and one server.

Every embedder embeds every item once, in the same order. For some items, one call runs at a time,
which measures latency. The other items are embedded in blocks, with several calls at the same time,
which measures throughput. The embedders take turns after each call and each block, so that other
load on the machine affects all of them alike. The same vectors are ranked exactly to measure
quality.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from lensemble_client import calls
from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation.comparison import Comparison
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.embedder_run import EmbedderRun

# Number of calls per embedder that measure latency.
SAMPLES = 100
# Number of blocks into which the other items are divided to measure throughput.
BLOCKS = 5


def compare_embedders(
    client: Client,
    dataset: Dataset,
    embedders: Sequence[str],
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    samples: int = SAMPLES,
    price_per_hour: float | None = None,
    progress: bool = False,
) -> Comparison:
    """Measures quality, latency, throughput and cost of embedders.

    Args:
        client: Client of a running server. It should not try calls again, because the time of a
            second try would count as latency.
        dataset: Items and queries.
        embedders: Names in `contract.EMBEDDERS`.
        concurrency: Number of calls that run at the same time when throughput is measured.
        samples: Number of calls per embedder that measure latency, limited to half of the items.
        price_per_hour: Price of the server, in any currency.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: An embedder is unknown or named twice, none is named, or a number is out
            of range.
        NotReadyError: The server cannot be reached.
    """
    _check(embedders, concurrency, samples, price_per_hour)
    server = client.status().server
    loaded = client.embedders()
    entries = [*dataset.corpus, *dataset.queries]
    runs = [EmbedderRun(client, name, entries) for name in embedders]
    for run in runs:
        if run.name not in loaded:
            run.error = "the server has not loaded it"
    order = random.Random(0).sample(range(len(entries)), len(entries))
    latency_positions = order[: min(samples, len(order) // 2)]
    rest = order[len(latency_positions) :]
    blocks = [rest[n::BLOCKS] for n in range(min(BLOCKS, len(rest)))]
    total = len(entries) * len(runs)
    with (
        ThreadPoolExecutor(concurrency) as pool,
        tqdm(desc="compare", total=total, unit="item", disable=not progress) as bar,
    ):
        for run in runs:
            run.warm_up()
        for position in latency_positions:
            for run in runs:
                run.embed_one(position)
                bar.update()
        for block in blocks:
            for run in runs:
                run.embed_block(block, pool)
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


def sample_queries(dataset: Dataset, max_queries: int) -> Dataset:
    """Returns the dataset with some of its queries. The sample is the same in each call.

    Args:
        dataset: The dataset; its whole corpus is kept.
        max_queries: Largest number of queries; 1 or more.
    """
    count = min(max_queries, len(dataset.queries))
    positions = sorted(random.Random(0).sample(range(len(dataset.queries)), count))
    queries = [dataset.queries[position] for position in positions]
    qrels = {query.id: dataset.qrels[query.id] for query in queries}
    return dataclasses.replace(dataset, queries=queries, qrels=qrels)


def _check(
    embedders: Sequence[str], concurrency: int, samples: int, price_per_hour: float | None
) -> None:
    for name in embedders:
        calls.embedder_model(name)
    if not embedders or len(set(embedders)) < len(embedders):
        raise InvalidInputError(
            f"{list(embedders)}; expected one name or more, each once", field="embedders"
        )
    for option, value in (("concurrency", concurrency), ("samples", samples)):
        if value < 1:
            raise InvalidInputError(f"{value}; expected 1 or more", field=option)
    if price_per_hour is not None and not price_per_hour >= 0:
        raise InvalidInputError(f"{price_per_hour}; expected 0 or more", field="price")
