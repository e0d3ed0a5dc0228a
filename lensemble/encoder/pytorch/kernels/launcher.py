"""Starts Triton's kernels with little work on the CPU."""

from __future__ import annotations

from typing import Any

import torch

# Triton builds a kernel anew for pointers that are not multiples of this, in bytes.
_ALIGNMENT = 16


class Launcher:
    """Starts kernels on a GPU; Triton compiles each one when it is started the first time.

    `kernel[grid](...)` examines every argument at every start, to find the build that fits. Here
    dtype and constants select the build, so later starts hand the arguments to it directly.
    """

    def __init__(self) -> None:
        self._builds: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self,
        kernel: Any,
        grid: tuple[int, int],
        arguments: tuple[torch.Tensor | float, ...],
        constants: tuple[int, ...],
        warps: int,
    ) -> None:
        """See `gpu_operations.Launch`. The first argument is a tensor that is not empty.

        Raises:
            Exception: Triton cannot compile or start the kernel. It has many types of errors.
        """
        if not grid[0]:
            return
        first = arguments[0]
        assert isinstance(first, torch.Tensor)
        if first.is_cuda and first.device.index != torch.cuda.current_device():
            with torch.cuda.device(first.device):  # Triton starts kernels on the current device
                self(kernel, grid, arguments, constants, warps)
            return
        dtypes = tuple(each.dtype for each in arguments if isinstance(each, torch.Tensor))
        key = (kernel, first.device, dtypes, constants, warps)
        build = self._builds.get(key) if _aligned(arguments) else None
        if build is not None:
            build[(*grid, 1)](*arguments, *constants)
            return
        build = kernel[grid](*arguments, *constants, num_warps=warps)
        if _aligned(arguments):
            self._builds[key] = build


def _aligned(arguments: tuple[torch.Tensor | float, ...]) -> bool:
    return all(
        each.data_ptr() % _ALIGNMENT == 0 for each in arguments if isinstance(each, torch.Tensor)
    )
