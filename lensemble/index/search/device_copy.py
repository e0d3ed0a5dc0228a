"""Copies a snapshot to a GPU: an exact one by PyTorch or the faster FAISS, others by FAISS.

Import this module only in processes that were given a GPU: it imports PyTorch, which takes seconds
and a third of a gigabyte.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.index.search.faiss_search import FaissSearch
from lensemble.index.snapshots.exact_search import ScoredRows
from lensemble.index.snapshots.faiss_index import gpu_count, to_gpu
from lensemble.index.snapshots.kinds import memory_bytes
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.snapshots.torch_search import TorchSearch, device_bytes
from lensemble.memory_errors import is_out_of_memory
from lensemble_contract.contract import DEFAULT_TOP_K, MAX_BATCH_SIZE

logger = logging.getLogger(__name__)

# Share of a GPU's memory that is left to the encoder's activations, whatever else is free.
_ACTIVATIONS_SHARE = 0.25
# Queries of the check against the CPU, and the largest difference of scores. Both compute in
# float32; the check is there for drivers and cards that compute something else.
_CHECKED_QUERIES = 4
_CHECK_TOLERANCE = 1e-4
_TRIALS = 3
# What `StandardGpuResources` of FAISS takes on large GPUs for its working memory.
_FAISS_WORKSPACE_BYTES = 1536 * 1024 * 1024


class SnapshotCopy(Protocol):
    """A copy of a snapshot that can be searched."""

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        usable_count: int,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """See `FaissSearch.search`."""


class CannotCopyError(Exception):
    """The device cannot search the snapshot.

    Args:
        reason: why, for the log.
        lacks_memory: whether it could, with more free memory.
    """

    def __init__(self, reason: str, *, lacks_memory: bool = False) -> None:
        super().__init__(reason)
        self.lacks_memory = lacks_memory


class TorchCopy:
    """A copy of an exact snapshot that PyTorch searches.

    Args:
        search: the search.
    """

    def __init__(self, search: TorchSearch) -> None:
        self._search = search

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        usable: NDArray[np.bool_],
        usable_count: int,
        parameters: Mapping[str, int] | None = None,
    ) -> ScoredRows:
        """See `FaissSearch.search`; an exact snapshot has no parameters."""
        return self._search.search(queries, k, usable if usable_count < len(usable) else None)


def copy_to_device(snapshot: Snapshot, device: torch.device, reserved_bytes: int) -> SnapshotCopy:
    """Copies a snapshot to a GPU.

    Args:
        snapshot: the snapshot.
        device: the GPU.
        reserved_bytes: size of the encoder's weights on this GPU, even if not yet loaded.

    Raises:
        CannotCopyError: The snapshot stays on the CPU.
    """
    _check_kind(snapshot)  # first, because a CUDA context takes half a gigabyte of the GPU
    if not torch.cuda.is_available():
        raise CannotCopyError("PyTorch finds no GPU")
    try:
        return choose_copy(snapshot, device, free_bytes(device, reserved_bytes))
    except (RuntimeError, ValueError) as error:
        text = str(error).partition("\n")[0]
        lacks_memory = is_out_of_memory(error)
        raise CannotCopyError(text, lacks_memory=lacks_memory) from error


def free_bytes(device: torch.device, reserved_bytes: int) -> int:
    """Bytes of a GPU that an index may take, without those that the encoder needs.

    Args:
        device: the GPU.
        reserved_bytes: size of the encoder's weights on this GPU, even if not yet loaded; room
            for its activations is added here.

    Returns:
        Bytes; negative if the encoder needs more than there is. PyTorch's cached memory is given
        back first.

    Raises:
        RuntimeError: The device fails.
    """
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return min(free, int(total * (1 - _ACTIVATIONS_SHARE)) - reserved_bytes)


def _check_kind(snapshot: Snapshot) -> None:
    """Raises a `CannotCopyError` if no GPU can search the snapshot, however large it is."""
    kind = snapshot.kind
    if not snapshot.manifest.count:
        raise CannotCopyError("it is empty")
    if not kind.exact and not kind.on_gpu:
        raise CannotCopyError(f"nothing searches kind {kind.name!r} on a GPU, unlike kind 'exact'")
    if not kind.exact and not gpu_count():
        raise CannotCopyError(
            f"kind {kind.name!r} needs FAISS for GPUs: install the extra `search-gpu` instead of "
            "`search`, or build the index with --kind exact"
        )


def choose_copy(snapshot: Snapshot, device: torch.device, free: int) -> SnapshotCopy:
    """The fastest copy of a snapshot that a device can have.

    Args:
        snapshot: the snapshot, of a kind that the device can search.
        device: a GPU; PyTorch's search also works on a CPU.
        free: bytes of the device that it may take.

    Raises:
        CannotCopyError: The device cannot search the snapshot.
        RuntimeError: The device has too little memory, or fails.
        ValueError: Some vectors are too long for float16.
    """
    if not snapshot.kind.exact:
        return _faiss_copy(snapshot, device, free)
    copy, taken = _torch_copy(snapshot, device, free)
    _check(snapshot, copy)
    if gpu_count() and _faiss_bytes(snapshot) <= free - taken:
        try:
            faiss_copy = _faiss_copy(snapshot, device, free - taken)
            _check(snapshot, faiss_copy)
        except (RuntimeError, CannotCopyError) as error:
            logger.warning("exact search on %s: FAISS is not used: %s", device, error)
            return copy
        copies: dict[str, SnapshotCopy] = {"PyTorch": copy, "FAISS": faiss_copy}
        seconds = dict(zip(copies, _median_seconds(snapshot, [*copies.values()]), strict=True))
        fastest = min(seconds, key=seconds.__getitem__)
        logger.info(
            "exact search on %s: %s (%s)",
            device,
            fastest,
            ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in seconds.items()),
        )
        copy = copies.pop(fastest)
        del copies
        torch.cuda.empty_cache()  # of the other one
    return copy


def _torch_copy(snapshot: Snapshot, device: torch.device, free: int) -> tuple[SnapshotCopy, int]:
    """PyTorch's copy, with the original vectors if they fit, and the bytes that it takes."""
    count, dimension = snapshot.vectors.shape
    for vectors_on_device in (True, False):
        needed = device_bytes(count, dimension, vectors_on_device=vectors_on_device)
        if needed <= free:
            search = TorchSearch.load(snapshot.vectors, device, vectors_on_device=vectors_on_device)
            return TorchCopy(search), needed
    raise _too_large(needed, free)


def _faiss_copy(snapshot: Snapshot, device: torch.device, free: int) -> FaissSearch:
    """FAISS's copy."""
    needed = _faiss_bytes(snapshot)
    if needed > free:
        raise _too_large(needed, free)
    return FaissSearch(snapshot, to_gpu(snapshot.index, device.index or 0), on_gpu=True)


def _faiss_bytes(snapshot: Snapshot) -> int:
    """Device memory of FAISS's copy with its working memory."""
    parameters, shape = snapshot.manifest.parameters, snapshot.vectors.shape
    return _FAISS_WORKSPACE_BYTES + memory_bytes(snapshot.kind, parameters, *shape)


def _too_large(needed: int, free: int) -> CannotCopyError:
    text = f"it needs {needed / 1e9:.2f} GB on the GPU, and {max(0, free) / 1e9:.2f} GB are free"
    return CannotCopyError(text, lacks_memory=True)


def _sample(snapshot: Snapshot) -> NDArray[np.float32]:
    """Vectors of the snapshot as queries, (`MAX_BATCH_SIZE`, D)."""
    chosen = np.random.default_rng(0).integers(len(snapshot.vectors), size=MAX_BATCH_SIZE)
    return np.ascontiguousarray(snapshot.vectors[chosen])


def _check(snapshot: Snapshot, copy: SnapshotCopy) -> None:
    """Searches a full batch, which also loads kernels, and compares scores with the CPU's.

    Raises:
        CannotCopyError: They differ.
    """
    queries, count = _sample(snapshot), len(snapshot.vectors)
    search = queries, min(DEFAULT_TOP_K, count), np.ones(count, np.bool_), count
    scores, _ = copy.search(*search)
    expected, _ = FaissSearch(snapshot, snapshot.index).search(
        queries[:_CHECKED_QUERIES], *search[1:]
    )
    difference = float(np.abs(scores[:_CHECKED_QUERIES] - expected).max())
    if not difference <= _CHECK_TOLERANCE:
        raise CannotCopyError(f"its scores there differ by {difference:.2g} from the CPU's")


def _median_seconds(snapshot: Snapshot, copies: Sequence[SnapshotCopy]) -> list[float]:
    """Median seconds in which each copy answers a full batch; copies are timed in turns."""
    queries, count = _sample(snapshot), len(snapshot.vectors)
    search = queries, min(DEFAULT_TOP_K, count), np.ones(count, np.bool_), count
    times: list[list[float]] = [[] for _ in copies]
    for trial in range(_TRIALS + 1):
        for copy, seconds in zip(copies, times, strict=True):
            started = time.perf_counter()
            copy.search(*search)
            if trial:  # the first one loads kernels
                seconds.append(time.perf_counter() - started)
    return [float(np.median(seconds)) for seconds in times]
