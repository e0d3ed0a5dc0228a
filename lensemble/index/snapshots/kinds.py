"""The kinds of index, their parameters, and the memory that they take.

A kind that compresses vectors, or searches only a part of them, is measured against exact search
(`tune`). The items that it finds get their true scores from the full-precision vectors. The
default numbers of lists come from the FAISS wiki, "Guidelines to choose an index".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lensemble_contract.errors import InvalidInputError

_HNSW_LINKS = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of index.

    Attributes:
        name: name in commands and manifests.
        effort: name of the parameter that trades speed for recall; empty for a kind without one.
        rerank: default number of candidates that are scored again with the full-precision vectors,
            per requested hit. It is 0 for a kind whose own scores are the true ones.
        on_gpu: whether FAISS can copy it to a GPU.
    """

    name: str
    effort: str = ""
    rerank: int = 0
    on_gpu: bool = True

    @property
    def exact(self) -> bool:
        """Whether it finds exactly what a comparison with every vector finds."""
        return not self.effort and not self.rerank

    @property
    def has_lists(self) -> bool:
        """Whether it is an IVF: vectors are in lists, and a search reads only some lists."""
        return self.effort == "nprobe"


EXACT = Kind("exact")
FP16 = Kind("fp16", rerank=2)
SQ8 = Kind("sq8", rerank=4, on_gpu=False)
IVF = Kind("ivf", effort="nprobe")
IVF_SQ8 = Kind("ivf_sq8", effort="nprobe", rerank=4)
IVF_PQ = Kind("ivf_pq", effort="nprobe", rerank=16)
HNSW = Kind("hnsw", effort="ef_search", on_gpu=False)
# One bit per dimension: RaBitQ (arXiv:2405.12497), which also bounds the error of its scores.
BINARY = Kind("binary", effort="rerank", rerank=16, on_gpu=False)
IVF_BINARY = Kind("ivf_binary", effort="nprobe", rerank=64, on_gpu=False)

KINDS = {
    kind.name: kind for kind in (EXACT, FP16, SQ8, BINARY, IVF, IVF_SQ8, IVF_PQ, IVF_BINARY, HNSW)
}


def kind_of(name: str) -> Kind:
    """The kind with a name.

    Raises:
        InvalidInputError: There is no such kind.
    """
    if name not in KINDS:
        raise InvalidInputError(f"{name!r}; expected one of {', '.join(KINDS)}", field="kind")
    return KINDS[name]


def default_parameters(kind: Kind, count: int, dimension: int) -> dict[str, int]:
    """All parameters of a kind, with defaults for a corpus of `count` vectors (D,)."""
    parameters: dict[str, int] = {}
    if kind.has_lists:
        nlist = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(count))))
        # FAISS warns if there are fewer than 39 training vectors per list.
        parameters["nlist"] = max(1, min(nlist, count // 39))
        parameters["nprobe"] = min(parameters["nlist"], 8)
    if kind is IVF_PQ:
        parameters["m"] = max(m for m in (*range(1, dimension // 4 + 1), 1) if dimension % m == 0)
    if kind is HNSW:
        parameters |= {"links": _HNSW_LINKS, "ef_construction": 80, "ef_search": 64}
    if kind.rerank:
        parameters["rerank"] = kind.rerank
    return parameters


def complete_parameters(
    kind: Kind, parameters: Mapping[str, int], count: int, dimension: int
) -> dict[str, int]:
    """All parameters of a kind, with defaults for those that are missing.

    Args:
        kind: kind of the index.
        parameters: parameters to set.
        count: number of vectors.
        dimension: length D of the vectors.

    Raises:
        InvalidInputError: The kind has no such parameter, or a value is out of range.
    """
    complete = default_parameters(kind, count, dimension)
    for name, value in parameters.items():
        if name not in complete:
            raise InvalidInputError(
                f"{name!r} is not a parameter of kind {kind.name!r}; expected one of "
                f"{', '.join(complete) or '(none)'}",
                field="parameters",
            )
        if not 1 <= value <= 2**20 or (name == "m" and dimension % value):
            raise InvalidInputError(
                f"{name} = {value!r} does not fit {count} vectors of {dimension} dimensions",
                field="parameters",
            )
        complete[name] = value
    if kind.has_lists:
        complete["nlist"] = max(1, min(complete["nlist"], count))
        complete["nprobe"] = min(complete["nprobe"], complete["nlist"])
    return complete


def memory_bytes(kind: Kind, parameters: Mapping[str, int], count: int, dimension: int) -> int:
    """Approximate memory of an index in bytes: codes, ids in lists, centroids, links."""
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
