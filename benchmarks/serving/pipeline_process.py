"""`Pipeline.embed` in a process of its own: from bytes to vectors without a server."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.common.workloads import WORKLOADS
from lensemble.operations.tritonserver_command import GOMP_SPINCOUNT
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import Item

BATCH = 32

_pipeline: Pipeline
_items: list[Item]


def _load(workload: str, distinct: int) -> None:
    global _pipeline, _items
    _items = WORKLOADS[workload].items("mixed", distinct)
    _pipeline = Pipeline(Settings(checkpoint=WORKLOADS[workload].checkpoint()))
    _pipeline.embed(_items[:BATCH])


def _items_per_s(count: int) -> float:
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        _pipeline.embed([_items[n % len(_items)] for n in range(start, start + BATCH)])
    return count / (time.perf_counter() - began)


class PipelineProcess:
    """A process that embeds batches when it is told to, and is idle otherwise."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def items_per_s(self, count: int) -> float:
        """Embeds this many items, a multiple of `BATCH`, and returns the items per second."""
        return self._pool.submit(_items_per_s, count).result()


@contextmanager
def pipeline_process(workload: str, distinct: int) -> Iterator[PipelineProcess]:
    """Starts a process with a workload's model and items in memory.

    Args:
        workload: A key of `WORKLOADS`.
        distinct: Number of different items.
    """
    # The server sets the same for its own processes. Without it, this process would be slower just
    # because of another process on its cores.
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=spawn, initializer=_load, initargs=(workload, distinct)
    ) as pool:
        yield PipelineProcess(pool)
