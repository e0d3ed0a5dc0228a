"""How time grows with size: for 1 to 4,096 items, and for a search in 10,000 to 1,000,000 vectors.

    python -m benchmarks.serving.growth [--quick] [--save]

It uses the real server with the demo's checkpoint. It measures `embed_many` of that many items,
half of them texts and half pictures, and `search` (embed a text, then find the nearest ten) by one
caller over random vectors, in the kind of index that `auto` picks. `exponent` is the slope of the
logarithm of time over the logarithm of size from 256 items on: 1 is linear. `--save` also writes
`benchmarks/results/growth.png`.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, print_and_save
from benchmarks.common.workloads import WORKLOADS
from benchmarks.search.corpora import VECTORS, VectorCorpus, clustered
from lensemble.checkpoint import Checkpoint
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client

ITEM_COUNTS = (1, 4, 16, 64, 256, 1024, 4096)
LINEAR_FROM = 256
VECTOR_COUNTS = (10_000, 100_000, 1_000_000)
QUERIES = 200
FOLDER = Path(".cache/growth")

Figures = dict[str, Any]


def seconds_of(function: Callable[[], object]) -> float:
    """Returns the seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Returns the least-squares slope of log(time) over log(size)."""
    slope, _ = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    )
    return round(slope, 3)


def measure_items(checkpoint: Path, counts: tuple[int, ...], rounds: int) -> Figures:
    """Returns seconds of `embed_many` by the number of items, medians over the rounds."""
    items = WORKLOADS["demo"].items("mixed", max(counts))
    with TritonServer(Settings(checkpoint=checkpoint)) as server, Client(server.grpc_url) as client:
        client.embed_many(items[:256])
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for number in range(rounds):
            for count in counts:
                print(f"round {number + 1}: {count} items", file=sys.stderr)
                seconds[count].append(seconds_of(partial(client.embed_many, items[:count])))
    medians = {count: statistics.median(values) for count, values in seconds.items()}
    large = [count for count in counts if count >= LINEAR_FROM]
    return {
        "seconds": {str(count): round(median, 4) for count, median in medians.items()},
        "exponent": exponent(large, [medians[count] for count in large]),
    }


def measure_searches(checkpoint: Path, sizes: tuple[int, ...]) -> Figures:
    """Returns milliseconds of a search, and of its index step alone, by the number of vectors."""
    profile = Checkpoint.open(checkpoint).profile
    texts = [item.text for item in WORKLOADS["demo"].items("text", QUERIES)]
    figures: Figures = {}
    for size in sizes:
        folder = FOLDER / str(size)
        shutil.rmtree(folder, ignore_errors=True)
        vectors = clustered(VectorCorpus(str(size), size, profile.dimension, 1000), VECTORS)
        ids = [str(n) for n in range(size)]
        print(f"index of {size} vectors", file=sys.stderr)
        write_index(folder, profile, vectors, ids, ["{}"] * size, plan=IndexPlan(), threads=2)
        del vectors
        with (
            TritonServer(Settings(checkpoint=checkpoint, index=folder)) as server,
            Client(server.grpc_url, timeout_s=120) as client,
        ):
            embedded = [client.embed(text) for text in texts]
            client.search_vector(embedded[0])
            client.search(texts[0])
            alone = [seconds_of(partial(client.search_vector, vector)) for vector in embedded]
            whole = [seconds_of(partial(client.search, text)) for text in texts]
            figures[str(size)] = {
                "kind": client.stats()["snapshot"]["kind"],
                "search_vector_p50_ms": round(statistics.median(alone) * 1000, 2),
                "search_p50_ms": round(statistics.median(whole) * 1000, 2),
            }
        shutil.rmtree(folder)
    return figures


def plot(items: Figures, searches: Figures, file: Path) -> None:
    """Draws seconds by number of items, and milliseconds of a search by number of vectors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    counts = [int(count) for count in items["seconds"]]
    left.loglog(counts, list(items["seconds"].values()), marker="o", label="embed_many")
    last = list(items["seconds"].values())[-1]
    left.loglog(counts, [last * n / counts[-1] for n in counts], "--", label="linear")
    left.set(xlabel="items", ylabel="seconds")
    sizes = [int(size) for size in searches]
    for key, label in (("search_p50_ms", "search"), ("search_vector_p50_ms", "search_vector")):
        right.semilogx(
            sizes, [figures[key] for figures in searches.values()], marker="o", label=label
        )
    right.set(xlabel="vectors in the index", ylabel="p50, ms", ylim=(0, None))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and vectors")
    parser.add_argument("--save", action="store_true", help="write results/growth.json and .png")
    options = parser.parse_args()
    counts, sizes, rounds = (
        (ITEM_COUNTS[:-1], VECTOR_COUNTS[:-1], 2)
        if options.quick
        else (ITEM_COUNTS, VECTOR_COUNTS, 3)
    )
    checkpoint = WORKLOADS["demo"].checkpoint()
    with stop_on_signals():
        items = measure_items(checkpoint, counts, rounds)
        searches = measure_searches(checkpoint, sizes)
    for count, seconds in items["seconds"].items():
        print(f"{count:>9} items {seconds:9.3f} s {seconds / int(count) * 1000:9.2f} ms each")
    print(f"exponent from {LINEAR_FROM} items on: {items['exponent']}")
    for size, figures in searches.items():
        print(f"{size:>9} vectors {figures}")
    if options.save:
        plot(items, searches, RESULTS / "growth.png")
    print_and_save("growth", {"rounds": rounds}, {"items": items, "rows": searches}, options.save)


if __name__ == "__main__":
    main()
