"""The same way from bytes to vectors in one process of its own, with nothing in between."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.common.workloads import WORKLOADS
from lensemble.operations.command_line import GOMP_SPINCOUNT
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


class InProcess:
    """Encodes batches of 32 when asked to; else it does nothing."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def items_per_s(self, count: int) -> float:
        """Of this many items, a multiple of `BATCH`."""
        return self._pool.submit(_items_per_s, count).result()


@contextmanager
def in_process(workload: str, distinct: int) -> Iterator[InProcess]:
    """A process that has a workload's model and its items in memory.

    Args:
        workload: A key of `WORKLOADS`.
        distinct: Items of its mixed load.
    """
    # What the server sets for its own processes: without it, this one would lose for nothing but
    # a neighbour on its cores.
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=spawn, initializer=_load, initargs=(workload, distinct)
    ) as pool:
        yield InProcess(pool)
