"""Recognizes errors for lack of memory, on CPUs and GPUs."""

from __future__ import annotations

import torch

# Parts of the messages of PyTorch's RuntimeErrors when memory runs out.
_OUT_OF_MEMORY = ("allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether PyTorch failed because memory ran out."""
    # On CPUs PyTorch raises a plain RuntimeError, and so it does on GPUs if cuBLAS has no room for
    # its workspace, or if there is no room for pinned memory.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )
