"""FAISS, with the settings that its defaults get wrong for this use, and the kinds of index we use.

FAISS sees positions 0 to N-1; `snapshot` says which row stands where. Kinds that keep less than the
whole vectors, or look at some of them only, are measured against exact search (`tune`); what they
find gets its true score from the whole vectors. `tests/unit/index/test_kinds.py` asks the installed
FAISS for all that is assumed here. Numbers of lists: FAISS wiki, "Guidelines to choose an index".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_contract.errors import InvalidInputError

BLAS_THRESHOLD = 2048
"""FAISS 1.15 calls BLAS from queries x dimensions = 128,000 on, 63 queries at 2,048 dimensions;
from here on it is already several times faster."""
TRAINING_PER_LIST = 64
"""Vectors per list that k-means sees; FAISS takes 256, for four times the time and no better
recall on clustered data."""
GPU_MAX_K = 2048

_HNSW_LINKS = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to search a snapshot.

    Attributes:
        name: Word for it in commands and manifests.
        effort: Parameter that says how hard to look; empty if it looks at everything.
        rerank: How many times as many candidates as asked for get their true score; 1 re-scores
            just those, 0 none, as the index's own scores are true.
        on_gpu: Whether FAISS can copy it to a GPU.
    """

    name: str
    effort: str = ""
    rerank: int = 0
    on_gpu: bool = True

    @property
    def exact(self) -> bool:
        """Whether it finds just what comparing with every vector finds."""
        return not self.effort and not self.rerank

    @property
    def has_lists(self) -> bool:
        """Whether vectors are kept in lists, of which a search looks into some."""
        return self.effort == "nprobe"


EXACT = Kind("exact")
FP16 = Kind("fp16", rerank=2)
SQ8 = Kind("sq8", rerank=4, on_gpu=False)
IVF = Kind("ivf", effort="nprobe")
IVF_SQ8 = Kind("ivf_sq8", effort="nprobe", rerank=4)
IVF_PQ = Kind("ivf_pq", effort="nprobe", rerank=16)
HNSW = Kind("hnsw", effort="ef_search", on_gpu=False)
# A bit for each dimension, after RaBitQ (arXiv:2405.12497), which also says how far off it may be.
BINARY = Kind("binary", effort="rerank", rerank=16, on_gpu=False)
IVF_BINARY = Kind("ivf_binary", effort="nprobe", rerank=64, on_gpu=False)

KINDS = {
    kind.name: kind for kind in (EXACT, FP16, SQ8, BINARY, IVF, IVF_SQ8, IVF_PQ, IVF_BINARY, HNSW)
}


def defaults(kind: Kind, count: int, dimension: int) -> dict[str, int]:
    """Parameters that fit a corpus.

    Args:
        kind: Of what kind.
        count: Of vectors.
        dimension: Of each.
    """
    found: dict[str, int] = {}
    if kind.has_lists:
        wanted = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(count))))
        found["nlist"] = max(1, min(wanted, count // 39))  # FAISS warns below 39 vectors a list
        found["nprobe"] = min(found["nlist"], 8)
    if kind is IVF_PQ:
        found["m"] = max(m for m in (*range(1, dimension // 4 + 1), 1) if dimension % m == 0)
    if kind is HNSW:
        found |= {"links": _HNSW_LINKS, "ef_construction": 80, "ef_search": 64}
    if kind.rerank:
        found["rerank"] = kind.rerank
    return found


def checked(
    kind: Kind, parameters: Mapping[str, int], count: int, dimension: int
) -> dict[str, int]:
    """Parameters in full: those given, and defaults for the others.

    Raises:
        InvalidInputError: One is not the kind's, or out of range.
    """
    found = defaults(kind, count, dimension)
    for name, value in parameters.items():
        if name not in found:
            raise InvalidInputError(
                f"{name!r} is no parameter of kind {kind.name!r}; expected one of "
                f"{', '.join(found) or '(none)'}",
                field="parameters",
            )
        if not 1 <= value <= 2**20 or (name == "m" and dimension % value):
            raise InvalidInputError(
                f"{name} = {value!r} does not fit {count} vectors of {dimension}",
                field="parameters",
            )
        found[name] = value
    if kind.has_lists:
        found["nlist"] = max(1, min(found["nlist"], count))
        found["nprobe"] = min(found["nprobe"], found["nlist"])
    return found


def memory_bytes(kind: Kind, parameters: Mapping[str, int], count: int, dimension: int) -> int:
    """What an index takes in memory, about: codes, ids of listed vectors, centroids, links."""
    per_vector = {
        EXACT: 4 * dimension,
        FP16: 2 * dimension,
        SQ8: dimension,
        IVF: 4 * dimension + 8,
        IVF_SQ8: dimension + 8,
        IVF_PQ: parameters.get("m", 0) + 8,
        HNSW: 4 * dimension + 8 * parameters.get("links", 0) + 8,
        BINARY: -(-dimension // 8) + 8,
        IVF_BINARY: -(-dimension // 8) + 8 + 8,
    }[kind]
    return count * per_vector + parameters.get("nlist", 0) * 4 * dimension


def factory(kind: Kind, parameters: Mapping[str, int]) -> str:
    """FAISS's words for an index. PQ is `np`: polysemous training costs seconds for each code."""
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
        code = f"PQ{parameters['m']}np"
    if kind is HNSW:
        return f"HNSW{parameters['links']},Flat"
    return f"IVF{parameters['nlist']},{code}" if kind.has_lists else code


def build(
    kind: Kind, vectors: NDArray[np.float32], parameters: Mapping[str, int], threads: int = 1
) -> Any:
    """Makes a FAISS index.

    Args:
        kind: Of what kind.
        vectors: (N, D) float32, unit length.
        parameters: Of the kind, in full (`checked`).
        threads: To build with.

    Returns:
        A `faiss.Index` of inner products with positions as ids.
    """
    faiss = faiss_module(threads)
    vectors = np.ascontiguousarray(vectors, np.float32)
    index = faiss.index_factory(
        vectors.shape[1], factory(kind, parameters), faiss.METRIC_INNER_PRODUCT
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
    faiss_module()
    return index


def search_parameters(
    kind: Kind, parameters: Mapping[str, int], allowed: NDArray[np.bool_] | None = None
) -> tuple[Any, Any]:
    """What FAISS is to be told with a search.

    Args:
        kind: Of the index.
        parameters: Of the kind, in full.
        allowed: (N,) bool, positions that may be found; None allows all.

    Returns:
        `faiss.SearchParameters`, and what it points into: keep that as long.
    """
    faiss = faiss_module()
    said: dict[str, Any] = {}
    kept: list[Any] = []
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        said["sel"] = faiss.IDSelectorBitmap(bits)
        kept = [bits, said["sel"]]
    if kind.has_lists:
        return faiss.SearchParametersIVF(nprobe=parameters["nprobe"], **said), kept
    if kind is HNSW:
        return faiss.SearchParametersHNSW(efSearch=parameters["ef_search"], **said), kept
    return faiss.SearchParameters(**said), kept


def flat_vectors(index: Any) -> NDArray[np.float32]:
    """The vectors inside an `exact` index, (N, D) float32; a view that lives as long as it."""
    faiss = faiss_module()
    count, dimension = index.ntotal, index.d
    if not count:
        return np.empty((0, dimension), np.float32)
    flat: NDArray[np.float32] = faiss.rev_swig_ptr(index.get_xb(), count * dimension)
    return flat.reshape(count, dimension)


def to_gpu(index: Any, device: int = 0) -> Any:
    """A copy of an index on a GPU, with FAISS's resources, which it keeps.

    Raises:
        RuntimeError: FAISS was built without GPUs, or has none.
    """
    faiss = faiss_module()
    options = faiss.GpuClonerOptions()
    if hasattr(options, "use_cuvs"):
        options.use_cuvs = False  # it refuses flat fp16, which plain FAISS copies
    resources = faiss.StandardGpuResources()
    copied = faiss.index_cpu_to_gpu(resources, device, index, options)
    copied.lensemble_resources = resources
    return copied


def gpu_count() -> int:
    """GPUs that the installed FAISS can use."""
    faiss = faiss_module()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def check_kind_name(name: str, also: Sequence[str] = ()) -> str:
    """The name, if there is such a kind.

    Raises:
        InvalidInputError: There is none.
    """
    if name not in KINDS and name not in also:
        raise InvalidInputError(
            f"{name!r}; expected one of {', '.join([*also, *KINDS])}", field="kind"
        )
    return name


def faiss_module(threads: int = 1) -> Any:
    """FAISS, set up for the calling thread.

    One thread: requests run side by side, and threads inside one only get in their way; FAISS
    keeps that number per thread.

    Args:
        threads: Of the calls that follow in this thread.
    """
    import faiss

    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    faiss.omp_set_num_threads(threads)
    return faiss
