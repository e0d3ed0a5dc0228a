"""Libraries that FAISS is compared with: HNSW graphs with the same links and search effort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.ground_truth import K

Parameters = Mapping[str, int]
# Function from queries (B, D) and parameters to the positions of the nearest vectors (B, 10).
Search = Callable[[NDArray[np.float32], Parameters], NDArray[np.int64]]


def _hnswlib(
    vectors: NDArray[np.float32], parameters: Parameters, threads: int
) -> tuple[Any, Search, int]:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(
        len(vectors), M=parameters["links"], ef_construction=parameters["ef_construction"]
    )
    index.add_items(vectors, num_threads=threads)

    def search(queries: NDArray[np.float32], parameters: Parameters) -> NDArray[np.int64]:
        index.set_ef(parameters["ef_search"])
        return np.asarray(index.knn_query(queries, K, num_threads=1)[0], np.int64)

    return index, search, int(index.index_file_size())


def _usearch(
    vectors: NDArray[np.float32], parameters: Parameters, threads: int
) -> tuple[Any, Search, int]:
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=parameters["links"],
        expansion_add=parameters["ef_construction"],
    )
    index.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(queries: NDArray[np.float32], parameters: Parameters) -> NDArray[np.int64]:
        index.expansion_search = parameters["ef_search"]
        return np.asarray(index.search(queries, K, threads=1).keys, np.int64)

    return index, search, int(index.memory_usage)


# Name in `PEERS` -> function from vectors, parameters of `kinds.HNSW` and threads to the index, a
# function that searches it with one thread, and the bytes that the library reports.
BUILDERS = {"hnswlib": _hnswlib, "usearch": _usearch}
