"""`lensemble index tune`: measures kinds of index on an index's own vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensemble.index.checks import check_vector
from lensemble.index.snapshots.kinds import EXACT, KINDS, Kind, kind_of
from lensemble.index.snapshots.measure import SearchMeasurement, measure_kinds
from lensemble.index.snapshots.tune import MIN_TRAINING_ROWS
from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError


def measure_index(
    folder: Path, kinds: Sequence[str] | None = None, queries: Path | None = None
) -> Iterator[SearchMeasurement]:
    """Measures kinds of index; the index itself does not change.

    Args:
        folder: folder of the index.
        kinds: names of the kinds; None takes all. With fewer items than `MIN_TRAINING_ROWS`, every
            kind would be built as `exact`, so None takes only that one.
        queries: `.npy` file with (Q, D) float32 vectors of typical queries. They matter because the
            vectors of texts are distributed differently from those of pictures. None takes a sample
            of the items.

    Yields:
        One measurement per kind and search effort, as soon as it is taken.

    Raises:
        InvalidInputError: There is no index, it has fewer than two items, a kind is unknown or
            needs more items, or the queries have another dimension.
        StorageError: The store is damaged.
    """
    named = [kind_of(name) for name in kinds or ()]
    with Store.open(folder) as store:
        vectors = store.read_contents().vectors
        query_vectors = None if queries is None else _load_queries(queries, store.dimension)
    if len(vectors) < 2:
        raise InvalidInputError(f"{len(vectors)} items; expected 2 or more", field="index")
    chosen = _measurable_kinds(named, len(vectors))
    yield from measure_kinds(vectors, chosen, query_vectors, threads=len(os.sched_getaffinity(0)))


def _measurable_kinds(named: Sequence[Kind], count: int) -> Sequence[Kind]:
    """The kinds to measure: those that the caller named, or all that can be built."""
    if count >= MIN_TRAINING_ROWS:
        return named or list(KINDS.values())
    for kind in named:
        if kind is not EXACT:
            raise InvalidInputError(
                f"{kind.name!r} needs {MIN_TRAINING_ROWS} items, and the index has {count}: with "
                "so few, every kind is searched exactly; measure `exact`, or a larger index",
                field="kinds",
            )
    return [EXACT]


def plot_measurements(measurements: Sequence[SearchMeasurement], path: Path) -> Path:
    """Draws recall against speed, and against memory.

    Args:
        measurements: measurements to draw.
        path: PNG file to write.

    Returns:
        The same path.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    speed, memory = figure.subplots(1, 2, sharey=True)
    for kind in dict.fromkeys(measurement.kind for measurement in measurements):
        points = [measurement for measurement in measurements if measurement.kind == kind]
        recalls = [point.recall_at_10 for point in points]
        speed.plot([32_000 / point.ms_32 for point in points], recalls, "o-", label=kind)
        memory.plot([point.memory_bytes / 2**20 for point in points], recalls, "o", label=kind)
    speed.set(xlabel="queries per second, 32 per call, one thread", ylabel="recall@10")
    memory.set(xlabel="memory of the index in MiB")
    for axes in (speed, memory):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    speed.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _load_queries(path: Path, dimension: int) -> NDArray[np.float32]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="queries") from error
    if vectors.ndim != 2 or not len(vectors):
        raise InvalidInputError(
            f"shape {vectors.shape}; expected (Q, {dimension})", field="queries"
        )
    for vector in vectors:
        check_vector(dimension, vector)
    queries: NDArray[np.float32] = np.ascontiguousarray(vectors, np.float32)
    return queries
