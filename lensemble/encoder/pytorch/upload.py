"""Moves packed batches to a GPU while it computes the batch before.

A copy from pageable memory makes the CPU wait, so everything goes through pinned memory. Patches
are packed into it directly, and the small tensors of a batch share one buffer, so that a batch
needs two copies instead of ten. The copies run on a stream of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from lensemble.encoder.packing import PackedBatch

# Byte positions of tensors in the shared buffer are multiples of this, as CUDA's loads want it.
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the shared buffer."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


def pinned_rows(count: int, width: int) -> torch.Tensor:
    """Makes room for uint8 rows (count, width) in pinned memory, which PyTorch keeps for reuse.

    Raises:
        RuntimeError: There is no GPU, or no room.
    """
    return torch.empty((count, width), dtype=torch.uint8, pin_memory=True)


def join(packed: PackedBatch, *, pin_memory: bool) -> tuple[torch.Tensor, dict[str, _Place]]:
    """Copies all tensors of a batch but `patches` into one buffer.

    Args:
        packed: a batch on the CPU.
        pin_memory: whether the buffer is pinned memory, which needs a GPU.

    Returns:
        The buffer (N,) uint8, and the place of each field in it.
    """
    tensors = {
        field.name: value
        for field in fields(packed)
        if isinstance(value := getattr(packed, field.name), torch.Tensor)
        and field.name != "patches"
    }
    places, size = {}, 0
    for name, tensor in tensors.items():
        places[name] = _Place(size, tensor.shape, tensor.dtype)
        size += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
    for name, tensor in tensors.items():
        _view(buffer, places[name]).copy_(tensor)
    return buffer, places


def split(
    packed: PackedBatch, patches: torch.Tensor, buffer: torch.Tensor, places: dict[str, _Place]
) -> PackedBatch:
    """Makes a batch of views into a buffer that was moved.

    Args:
        packed: the batch on the CPU.
        patches: its patches, on the device.
        buffer: the buffer of `join`, on the device.
        places: the places of `join`.
    """
    views: dict[str, Any] = {name: _view(buffer, place) for name, place in places.items()}
    return replace(packed, patches=patches, **views)


def _view(buffer: torch.Tensor, place: _Place) -> torch.Tensor:
    size = place.shape.numel() * place.dtype.itemsize
    return buffer[place.offset : place.offset + size].view(place.dtype).view(place.shape)


class Uploader:
    """Uploads batches to one GPU on a stream of its own.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, packed: PackedBatch) -> PackedBatch:
        """Starts the upload; work that the current stream gets from now on waits for it.

        Args:
            packed: a batch on the CPU. The CPU waits for the copy of its patches unless they are in
                pinned memory (`pinned_rows`).

        Returns:
            The batch on the device.

        Raises:
            ValueError: The batch has a shared prefix.
        """
        if int(packed.cu_seqlens[0]):
            raise ValueError("a shared prefix works on CPUs only: GPU kernels cannot read a prefix")
        buffer, places = join(packed, pin_memory=True)
        with torch.cuda.stream(self._stream):
            patches, buffer = (
                tensor.to(self._device, non_blocking=True) for tensor in (packed.patches, buffer)
            )
        current: Any = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in (patches, buffer):
            # The allocator must not give their memory to the next upload before this pass has run.
            tensor.record_stream(current)
        return split(packed, patches, buffer, places)
