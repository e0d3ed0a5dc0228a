"""Writes to a server at full speed, in a process of its own: Python's lock would slow the searcher.

    python -m benchmarks.search.writer URL PROFILE CORPUS

For each line on standard input, a number of seconds, it writes for so long and prints how many
items the server acknowledged, and the seconds that it took.
"""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.search.data import CORPORA, WRITES, Corpus, clustered
from lensemble_client import Client

THREADS = 3
BATCH = 64
_VECTORS = 16_384


class Writer:
    """Writes items of a corpus's mixture: half are new, half replace what is there.

    Args:
        client: Of the server.
        profile: Hash of the server's profile.
        corpus: What the index held at first, under its positions as ids.
    """

    def __init__(self, client: Client, profile: str, corpus: Corpus) -> None:
        self._client, self._profile = client, profile
        self._vectors = clustered(corpus, WRITES, _VECTORS)
        self._count = corpus.count
        self._numbers = itertools.count()

    def write(self, seconds: float) -> tuple[int, float]:
        """Writes with all threads.

        Args:
            seconds: How long; the last batches may take longer.

        Returns:
            Items acknowledged, and seconds.
        """
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            counts = list(pool.map(self._thread, [began + seconds] * THREADS))
        return sum(counts), time.perf_counter() - began

    def _thread(self, end: float) -> int:
        written = 0
        while time.perf_counter() < end:
            number = next(self._numbers)  # one step of the interpreter: threads do not share any
            start = number * BATCH % _VECTORS
            vectors = self._vectors[start : start + BATCH]
            documents = [{"n": number}] * BATCH
            ids = batch_ids(number, self._count)
            written += len(self._client.upsert(ids, vectors, documents, profile=self._profile))
        return written


def batch_ids(number: int, count: int) -> list[str]:
    """Ids of one batch: half are new, half stand in the index.

    Args:
        number: Of the batch.
        count: Of the items that the index held at first.
    """
    half = BATCH // 2
    old = [str((number * half + n) % count) for n in range(half)]
    return [*(f"new-{number}-{n}" for n in range(half)), *old]


def main() -> None:
    """Reads seconds, writes, says what was acknowledged."""
    url, profile, name = sys.argv[1:]
    with Client(url) as client:
        writer = Writer(client, profile, CORPORA[name])
        print("ready", flush=True)
        for line in sys.stdin:
            count, seconds = writer.write(float(line))
            print(count, seconds, flush=True)


if __name__ == "__main__":
    main()
