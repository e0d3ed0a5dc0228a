"""FAISS, with the settings that its defaults get wrong for this use, and the kinds of index we use.

FAISS sees positions 0 to N-1; `snapshot` says which row stands where. Kinds differ in what they
can: see `Kind`. Measured on FAISS 1.15; `tests/unit/test_kinds.py` asks the installed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLAS_THRESHOLD = 2048
"""FAISS 1.15 calls BLAS from queries x dimensions = 128,000 on, 63 queries at 2,048 dimensions;
from here on it is already several times faster."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to search a snapshot.

    Attributes:
        name: Word for it in commands and manifests.
        exact: Whether it finds just what comparing with every vector finds.
    """

    name: str
    exact: bool


EXACT = Kind("exact", exact=True)
KINDS = {kind.name: kind for kind in (EXACT,)}


def build(kind: Kind, vectors: NDArray[np.float32], parameters: Mapping[str, int]) -> Any:
    """Makes a FAISS index.

    Args:
        kind: Of what kind.
        vectors: (N, D) float32, unit length.
        parameters: Of the kind.

    Returns:
        A `faiss.Index` of inner products with positions as ids.
    """
    faiss = faiss_module()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def selector(allowed: NDArray[np.bool_]) -> tuple[Any, NDArray[np.uint8]]:
    """Search parameters that let only some positions through.

    Args:
        allowed: (N,) bool.

    Returns:
        `faiss.SearchParameters`, and the bits that it points into: keep them as long.
    """
    faiss = faiss_module()
    bits = np.packbits(allowed, bitorder="little")
    chosen = faiss.IDSelectorBitmap(bits)
    return faiss.SearchParameters(sel=chosen), bits


def faiss_module() -> Any:
    """FAISS, set up for the calling thread.

    One thread: requests run side by side, and threads inside one only get in their way; FAISS
    keeps that number per thread.
    """
    import faiss

    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    faiss.omp_set_num_threads(1)
    return faiss
