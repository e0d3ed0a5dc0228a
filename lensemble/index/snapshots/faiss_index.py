"""Builds FAISS indexes, makes their search parameters, and copies them to GPUs.

FAISS knows only positions 0 to N-1; a snapshot says which row is at which position.
`tests/unit/index/test_kinds.py` checks what this module assumes about the installed FAISS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.index.snapshots.kinds import (
    BINARY,
    EXACT,
    FP16,
    HNSW,
    IVF,
    IVF_BINARY,
    IVF_PQ,
    IVF_SQ8,
    SQ8,
    Kind,
)

# Number of queries x dimensions from which FAISS calls BLAS. FAISS 1.15 has 128,000, which is 63
# queries at 2,048 dimensions, but BLAS is several times faster already from this value on.
BLAS_THRESHOLD = 2048
# Vectors per list that k-means is trained on. FAISS's default of 256 takes four times as long, and
# recall on clustered data is no better.
TRAINING_PER_LIST = 64
# Largest number of results per query on a GPU; a limit of FAISS.
GPU_MAX_K = 2048


def build_index(
    kind: Kind, vectors: NDArray[np.float32], parameters: Mapping[str, int], threads: int = 1
) -> Any:
    """Builds a FAISS index.

    Args:
        kind: kind of the index.
        vectors: (N, D) float32, unit length.
        parameters: all parameters of the kind (`complete_parameters`).
        threads: number of threads to build with.

    Returns:
        A `faiss.Index` for inner products, with positions as ids.
    """
    faiss = faiss_module(threads)
    vectors = np.ascontiguousarray(vectors, np.float32)
    index = faiss.index_factory(
        vectors.shape[1], factory_string(kind, parameters), faiss.METRIC_INNER_PRODUCT
    )
    if kind.has_lists:
        index.cp.max_points_per_centroid = TRAINING_PER_LIST
        index.cp.min_points_per_centroid = 1
    if kind is IVF_PQ:
        index.pq.cp.min_points_per_centroid = 1
    if kind is HNSW:
        index.hnsw.efConstruction = parameters["ef_construction"]
    if len(vectors):
        index.train(vectors)
        index.add(vectors)
    faiss_module()  # back to one thread
    return index


def factory_string(kind: Kind, parameters: Mapping[str, int]) -> str:
    """The string from which `faiss.index_factory` makes a kind of index."""
    code = {
        EXACT: "Flat",
        FP16: "SQfp16",
        SQ8: "SQ8",
        BINARY: "RaBitQ",
        IVF: "Flat",
        IVF_SQ8: "SQ8",
        IVF_BINARY: "RaBitQ",
    }.get(kind, "")
    if kind is IVF_PQ:
        # `np` turns off polysemous training, which takes seconds for each code.
        code = f"PQ{parameters['m']}np"
    if kind is HNSW:
        return f"HNSW{parameters['links']},Flat"
    return f"IVF{parameters['nlist']},{code}" if kind.has_lists else code


def search_parameters(
    kind: Kind, parameters: Mapping[str, int], allowed: NDArray[np.bool_] | None = None
) -> tuple[Any, Any]:
    """Search parameters for FAISS.

    Args:
        kind: kind of the index.
        parameters: all parameters of the kind.
        allowed: (N,) bool, positions that may be returned; None allows all.

    Returns:
        `faiss.SearchParameters`, and the objects that it points to. FAISS does not keep references
        to them, so the caller must keep them alive until the search has ended.
    """
    faiss = faiss_module()
    options: dict[str, Any] = {}
    referenced: list[Any] = []
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        options["sel"] = faiss.IDSelectorBitmap(bits)
        referenced = [bits, options["sel"]]
    if kind.has_lists:
        return faiss.SearchParametersIVF(nprobe=parameters["nprobe"], **options), referenced
    if kind is HNSW:
        return faiss.SearchParametersHNSW(efSearch=parameters["ef_search"], **options), referenced
    return faiss.SearchParameters(**options), referenced


def flat_vectors(index: Any) -> NDArray[np.float32]:
    """The vectors inside an `exact` index, (N, D) float32: a view, valid as long as the index."""
    faiss = faiss_module()
    count, dimension = index.ntotal, index.d
    if not count:
        return np.empty((0, dimension), np.float32)
    flat: NDArray[np.float32] = faiss.rev_swig_ptr(index.get_xb(), count * dimension)
    return flat.reshape(count, dimension)


def to_gpu(index: Any, device: int = 0) -> Any:
    """A copy of an index on a GPU.

    Raises:
        RuntimeError: FAISS was built without GPU support, finds no GPU, or the GPU has too little
            memory.
    """
    faiss = faiss_module()
    options = faiss.GpuClonerOptions()
    if hasattr(options, "use_cuvs"):
        options.use_cuvs = False  # cuVS refuses flat fp16, which plain FAISS copies
    resources = faiss.StandardGpuResources()
    gpu_index = faiss.index_cpu_to_gpu(resources, device, index, options)
    gpu_index.lensemble_resources = resources  # keeps them alive as long as the index needs them
    return gpu_index


def gpu_count() -> int:
    """Number of GPUs that the installed FAISS can use."""
    faiss = faiss_module()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def faiss_module(threads: int = 1) -> Any:
    """The `faiss` module, configured for the calling thread.

    FAISS keeps a number of threads for each calling thread. Requests run concurrently, so more
    threads for one request would only compete with other requests.

    Args:
        threads: number of threads for FAISS calls that this thread makes from now on.

    Raises:
        ImportError: FAISS is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        text = "no FAISS; the extra `search` has it, and on GPUs `search-gpu`: take one of them"
        raise ImportError(text) from error

    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    faiss.omp_set_num_threads(threads)
    return faiss
