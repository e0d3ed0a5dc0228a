"""Runs the kernels on CPU tensors, in Triton's interpreter."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations
from lensemble.encoder.pytorch.kernels.layer_operations import LayerOperations

_COUNTS: dict[str, int] = {}


def interpreted_operations() -> LayerOperations:
    """The kernels in the interpreter; cuBLAS's GELU in PyTorch's words."""
    return replace(gpu_operations(interpret), linear_gelu=_linear_gelu)


def interpret(kernel, grid, tensors, numbers, constants, warps):
    """Starts a kernel as `Launcher` does. The interpreter truncates when it converts to bf16."""
    _COUNTS[kernel.fn.__name__] = _COUNTS.get(kernel.fn.__name__, 0) + 1
    # `tl.sum` is a function in Triton's language, which the interpreter of one kernel cannot call.
    # NumPy warns where a GPU's exponential becomes infinite without a word.
    with patch.object(tl, "sum", _sum), np.errstate(over="ignore"):
        InterpretedFunction(kernel.fn)[grid](*tensors, *numbers, *constants)


def taken_counts() -> dict[str, int]:
    """How often each kernel was started since the last call of this function."""
    counts = dict(_COUNTS)
    _COUNTS.clear()
    return counts


def _sum(x, axis):
    return tl.reduce(x, axis, tl.standard._sum_combine)


def _linear_gelu(x, weight, bias):
    return torch.nn.functional.gelu(x @ weight.t() + bias, approximate="tanh")
