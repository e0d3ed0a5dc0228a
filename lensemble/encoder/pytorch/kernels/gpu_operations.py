"""Calls the kernels with tensors: shapes become constants, and results are allocated."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from lensemble.encoder.pytorch.kernels import triton_kernels
from lensemble.encoder.pytorch.kernels.layer_operations import LayerOperations, Tables

# Columns of the result (L, I) that one program computes, at most.
_SWIGLU_BLOCK = 1024
# Largest tile, as a count of numbers, that gets four warps; larger ones get eight. Up to tiles of
# 4096 numbers, a thread then holds at most 16 of them.
_FOUR_WARPS = 2048


class Launch(Protocol):
    """Starts a kernel: `launcher.Launcher`, or in tests Triton's interpreter."""

    def __call__(
        self,
        kernel: Any,
        grid: tuple[int, int],
        tensors: tuple[torch.Tensor, ...],
        numbers: tuple[float, ...],
        constants: tuple[int, ...],
        warps: int,
    ) -> None:
        """Starts one program for each place of the grid.

        Args:
            kernel: a function of `triton_kernels`.
            grid: numbers of programs.
            tensors: the kernel's first arguments.
            numbers: the arguments after them.
            constants: the kernel's constants, in its order. Equal constants must come with equal
                `warps`, because `Launcher` reuses the build.
            warps: number of warps of a program.
        """


def gpu_operations(launch: Launch) -> LayerOperations:
    """Makes all operations on GPU kernels.

    All but `linear_gelu` raise ValueError if hidden states, heads, gate and up, or tables are not
    contiguous. Weights and biases must be contiguous, too; this is not checked.

    Args:
        launch: starts the kernels.
    """

    def add_rms_norm(
        residual: torch.Tensor, product: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        _check_contiguous(residual, product)
        out, size = torch.empty_like(product), product.shape[1]
        tensors = (residual, product, weight, out)
        block = _power_of_two(size)
        kernel = triton_kernels.add_rms_norm_kernel
        launch(kernel, (len(out), 1), tensors, (eps,), (size, block), _warps(block))
        return out

    def add_layer_norm(
        residual: torch.Tensor,
        product: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        _check_contiguous(residual, product)
        out, size = torch.empty_like(product), product.shape[1]
        tensors = (residual, product, weight, bias, out)
        block = _power_of_two(size)
        kernel = triton_kernels.add_layer_norm_kernel
        launch(kernel, (len(out), 1), tensors, (eps,), (size, block), _warps(block))
        return out

    def qk_norm_rotary(
        heads: torch.Tensor,
        query_weight: torch.Tensor,
        key_weight: torch.Tensor,
        query_heads: int,
        tables: Tables,
        eps: float,
    ) -> None:
        _check_contiguous(heads, *tables)
        rows, all_heads, size = heads.shape
        key_heads = (all_heads - query_heads) // 2
        blocks = tuple(map(_power_of_two, (query_heads, key_heads, size // 2)))
        launch(
            triton_kernels.qk_norm_rotary_kernel,
            (rows, 1),
            (heads, query_weight, key_weight, *tables),
            (eps,),
            (query_heads, key_heads, size, *blocks),
            _warps(blocks[0] * blocks[2]),
        )

    def vision_rotary(heads: torch.Tensor, tables: Tables) -> None:
        _check_contiguous(heads, *tables)
        rows, all_heads, size = heads.shape
        count = all_heads // 3
        blocks = _power_of_two(2 * count), _power_of_two(size // 2)
        launch(
            triton_kernels.vision_rotary_kernel,
            (rows, 1),
            (heads, *tables),
            (),
            (count, size, *blocks),
            _warps(blocks[0] * blocks[1]),
        )

    def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
        _check_contiguous(gate_up)
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        block = min(_power_of_two(size), _SWIGLU_BLOCK)
        grid = (rows, -(-size // block))
        launch(triton_kernels.swiglu_kernel, grid, (gate_up, out), (), (size, block), _warps(block))
        return out

    return LayerOperations(
        add_rms_norm=add_rms_norm,
        add_layer_norm=add_layer_norm,
        qk_norm_rotary=qk_norm_rotary,
        vision_rotary=vision_rotary,
        swiglu=swiglu,
        linear_gelu=linear_gelu,
    )


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `LayerOperations.linear_gelu`; cuBLAS adds the bias and applies GELU to the product.

    Raises:
        ValueError: The tensors are not on a GPU. On GPUs this function computes GELU in its tanh
            form, on CPUs the exact one (PyTorch's decomposition of `aten._addmm_activation` states
            both).
    """
    if x.device.type != "cuda":
        raise ValueError(f"the product with GELU runs on {x.device.type!r}; expected a GPU")
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


def _check_contiguous(*tensors: torch.Tensor) -> None:
    """The kernels compute the places of numbers from the shapes alone."""
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError(f"a tensor has strides {tensor.stride()}; expected contiguous rows")


def _power_of_two(size: int) -> int:
    """The smallest power of two that is not less than a positive size."""
    return 1 << (size - 1).bit_length()


def _warps(numbers: int) -> int:
    return 4 if numbers <= _FOUR_WARPS else 8
