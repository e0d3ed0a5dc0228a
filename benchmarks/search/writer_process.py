"""Writes to a server at full speed, in a process of its own.

    python -m benchmarks.search.writer_process URL PROFILE CORPUS

Each line on standard input is a number of seconds. It writes for that long, and prints how many
items the server acknowledged and the seconds that it took. In one process with the searcher,
Python's global lock would slow the searches down.
"""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.search.corpora import CORPORA, WRITES, VectorCorpus, clustered
from lensemble_client import Client

THREADS = 3
BATCH = 64
_VECTORS = 16_384


class VectorWriter:
    """Writes items of a corpus's mixture: half are new, half replace existing items.

    Args:
        client: Client of the server.
        profile: Hash of the server's profile.
        corpus: Corpus that the index held at first, with positions as ids.
    """

    def __init__(self, client: Client, profile: str, corpus: VectorCorpus) -> None:
        self._client, self._profile = client, profile
        self._vectors = clustered(corpus, WRITES, _VECTORS)
        self._count = corpus.count
        self._numbers = itertools.count()

    def write(self, seconds: float) -> tuple[int, float]:
        """Writes with all threads.

        Args:
            seconds: Seconds to write; the last batches may take longer.

        Returns:
            Number of acknowledged items, and seconds that it took.
        """
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            counts = list(pool.map(self._write_batches, [began + seconds] * THREADS))
        return sum(counts), time.perf_counter() - began

    def _write_batches(self, end: float) -> int:
        written = 0
        while time.perf_counter() < end:
            number = next(self._numbers)  # atomic, so that no two threads get the same number
            start = number * BATCH % _VECTORS
            vectors = self._vectors[start : start + BATCH]
            documents = [{"n": number}] * BATCH
            ids = batch_ids(number, self._count)
            written += len(self._client.upsert(ids, vectors, documents, profile=self._profile))
        return written


def batch_ids(number: int, count: int) -> list[str]:
    """Returns the ids of one batch: half are new, half are in the index.

    Args:
        number: Number of the batch.
        count: Number of items that the index held at first.
    """
    half = BATCH // 2
    old = [str((number * half + n) % count) for n in range(half)]
    return [*(f"new-{number}-{n}" for n in range(half)), *old]


def main() -> None:
    """Reads seconds, writes, and prints what was acknowledged."""
    url, profile, name = sys.argv[1:]
    with Client(url) as client:
        writer = VectorWriter(client, profile, CORPORA[name])
        print("ready", flush=True)
        for line in sys.stdin:
            count, seconds = writer.write(float(line))
            print(count, seconds, flush=True)


if __name__ == "__main__":
    main()
