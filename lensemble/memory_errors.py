"""Recognizes errors for lack of memory, on CPUs and GPUs."""

from __future__ import annotations

import torch

# Parts of the messages of RuntimeErrors when memory runs out. "out of memory" is CUDA's own text,
# to which each library adds others: "CUDA error: out of memory", "CUDA driver error: out of memory"
# (PyTorch), "Triton Error [CUDA]: out of memory", "(cudaMalloc error out of memory [2])" (FAISS).
_OUT_OF_MEMORY = ("allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "out of memory")


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether PyTorch, FAISS or a kernel failed because memory ran out."""
    # On CPUs PyTorch raises a plain RuntimeError, and so it does on GPUs if cuBLAS has no room for
    # its workspace, or if there is no room for pinned memory.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )
