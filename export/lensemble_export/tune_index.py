"""`lensemble index tune`: kinds of index, measured on an index's own vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensemble.index import check_query
from lensemble.index.snapshots.kinds import KINDS, check_kind_name
from lensemble.index.snapshots.measure import SearchMeasurement, measure_kinds
from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError


def measure_index(
    folder: Path, kinds: Sequence[str] | None = None, queries: Path | None = None
) -> Iterator[SearchMeasurement]:
    """Measures kinds of index; the index itself stays as it is.

    Args:
        folder: Of the index.
        kinds: Names; None takes all.
        queries: `.npy` of (Q, D) float32 vectors such as are asked: texts search pictures otherwise
            than pictures do. None takes a sample of the items.

    Yields:
        One point per kind and effort, as they are measured.

    Raises:
        InvalidInputError: There is no index, no item, or no such kind, or the queries do not fit.
        StorageError: The store is damaged.
    """
    chosen = [KINDS[check_kind_name(name)] for name in (kinds or KINDS)]
    with Store.open(folder) as store:
        vectors = store.read_contents().vectors
        asked = None if queries is None else _queries(queries, store.dimension)
    if len(vectors) < 2:
        raise InvalidInputError(f"{len(vectors)} items; expected 2 or more", field="index")
    yield from measure_kinds(vectors, chosen, asked, threads=len(os.sched_getaffinity(0)))


def plot_measurements(points: Sequence[SearchMeasurement], path: Path) -> Path:
    """Draws recall against speed, and against memory.

    Args:
        points: Measured.
        path: PNG to write.

    Returns:
        The same path.

    Raises:
        OSError: It cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    speed, memory = figure.subplots(1, 2, sharey=True)
    for kind in dict.fromkeys(point.kind for point in points):
        some = [point for point in points if point.kind == kind]
        recalls = [point.recall_at_10 for point in some]
        speed.plot([32_000 / point.ms_32 for point in some], recalls, "o-", label=kind)
        memory.plot([point.memory_bytes / 2**20 for point in some], recalls, "o", label=kind)
    speed.set(xlabel="queries per second, 32 in a call, one thread", ylabel="recall@10")
    memory.set(xlabel="memory of the index in MiB")
    for axes in (speed, memory):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    speed.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _queries(path: Path, dimension: int) -> NDArray[np.float32]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="queries") from error
    if found.ndim != 2 or not len(found):
        raise InvalidInputError(f"shape {found.shape}; expected (Q, {dimension})", field="queries")
    for vector in found:
        check_query(dimension, vector)
    queries: NDArray[np.float32] = np.ascontiguousarray(found, np.float32)
    return queries
