"""Starts Triton's kernels with little work on the CPU."""

from __future__ import annotations

from typing import Any

import torch

# Triton builds a kernel anew for pointers that are not multiples of this, in bytes.
_ALIGNMENT = 16


class Launcher:
    """Starts kernels on a GPU; Triton compiles each one when it is started the first time.

    `kernel[grid](...)` examines every argument at every start, to find the build that fits. Here
    dtypes and constants select the build, so later starts hand the arguments to it directly.
    """

    def __init__(self) -> None:
        self._builds: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self,
        kernel: Any,
        grid: tuple[int, int],
        tensors: tuple[torch.Tensor, ...],
        numbers: tuple[float, ...],
        constants: tuple[int, ...],
        warps: int,
    ) -> None:
        """See `gpu_operations.Launch`.

        Raises:
            Exception: Triton cannot compile or start the kernel. It has many types of errors.
        """
        if not grid[0]:
            return
        device = tensors[0].get_device()
        if device >= 0 and device != torch.cuda.current_device():
            with torch.cuda.device(device):  # Triton starts kernels on the current device
                self(kernel, grid, tensors, numbers, constants, warps)
            return
        pointers, dtypes = 0, []
        for tensor in tensors:
            pointers |= tensor.data_ptr()
            dtypes.append(tensor.dtype)
        # The kernels live as long as the process, so `id` names each of them for ever.
        key = (id(kernel), device, *dtypes, *constants)
        aligned = pointers % _ALIGNMENT == 0
        build = self._builds.get(key) if aligned else None
        if build is not None:
            build[(*grid, 1)](*tensors, *numbers, *constants)
            return
        build = kernel[grid](*tensors, *numbers, *constants, num_warps=warps)
        if aligned:
            self._builds[key] = build
