"""`lensemble compare`: embedders side by side on one dataset and one server.

Every embedder embeds every item once, all in the same order: some items one call at a time, which
measures latency, the others in blocks with many calls in flight, which measures throughput.
Embedders take turns call by call and block by block, so that other load on the machine affects all
of them alike. Quality is measured on the same vectors, ranked exactly.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from lensemble_client import calls
from lensemble_client.client import Client
from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation.comparison import Comparison
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.embedder_run import EmbedderRun

# Calls per embedder that measure latency.
SAMPLES = 100
# Throughput is measured over this many parts of the other items.
BLOCKS = 5


def compare_embedders(
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
        client: client of a running server; it should not retry, because the time of a second try
            counts as latency.
        dataset: items and queries.
        embedders: names in `contract.EMBEDDERS`.
        concurrency: calls in flight at a time when throughput is measured.
        samples: calls per embedder that measure latency; at most half of the items are used.
        price_per_hour: price of the server, in any currency.
        progress: whether to show a progress bar.

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
    singles = order[: min(samples, len(order) // 2)]
    rest = order[len(singles) :]
    blocks = [rest[n::BLOCKS] for n in range(min(BLOCKS, len(rest)))]
    total = len(entries) * len(runs)
    with (
        ThreadPoolExecutor(concurrency) as pool,
        tqdm(desc="compare", total=total, unit="item", disable=not progress) as bar,
    ):
        for run in runs:
            run.warm_up()
        for place in singles:
            for run in runs:
                run.embed_one(place)
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


def sample_queries(dataset: Dataset, most: int) -> Dataset:
    """The dataset with its whole corpus and some of its queries; the sample is always the same.

    Args:
        dataset: the dataset to draw from.
        most: largest number of queries; 1 or more.
    """
    count = min(most, len(dataset.queries))
    places = sorted(random.Random(0).sample(range(len(dataset.queries)), count))
    queries = [dataset.queries[place] for place in places]
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
