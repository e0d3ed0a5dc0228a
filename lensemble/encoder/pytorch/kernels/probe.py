"""Compares a tower's operations with PyTorch on a few rows, on the device that will serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from lensemble.encoder.pytorch.kernels.layer_operations import PYTORCH, LayerOperations
from lensemble.encoder.pytorch.kernels.requirements import missing_requirements

logger = logging.getLogger(__name__)

# Largest difference to PyTorch in float32, in units in the last place of the largest number. Norms
# take a sum that was rounded, which costs about one; a wrong kernel is off by thousands.
_MAX_DIFFERENCE = 4
_ROWS = 5
_MAX_CAUSE = 160  # characters

Calls = dict[str, tuple[Any, ...]]


@torch.inference_mode()
def probe(tower: str, operations: LayerOperations, calls: Calls) -> LayerOperations | None:
    """Replaces operations that fail or compute something else by PyTorch's, with one line of log.

    Args:
        tower: name of the tower, for the log.
        operations: the operations to try.
        calls: arguments for each operation that the tower uses, on the device.

    Returns:
        The operations to use; None if none of the tower's works.
    """
    causes: dict[str, list[str]] = {}
    for name, arguments in calls.items():
        if cause := _fault(operations, name, arguments):
            causes.setdefault(cause, []).append(name)
    if not causes:
        return operations
    failed = [name for names in causes.values() for name in names]
    texts = [f"{', '.join(names)} ({cause})" for cause, names in causes.items()]
    missing = [each.what for each in missing_requirements()]
    logger.warning(
        "%s tower: PyTorch replaces the GPU kernels %s%s",
        tower,
        ", ".join(texts),
        f"; on this machine: {', '.join(missing)}" if missing else "",
    )
    if len(failed) == len(calls):
        return None
    return replace(operations, **{name: getattr(PYTORCH, name) for name in failed})


def text_calls(layer: Any) -> Calls:
    """Makes arguments for the operations of the text tower.

    Args:
        layer: one of its layers, whose weights and sizes are used.

    Raises:
        ValueError: The layer's activation is not SiLU, which `swiglu` computes.
    """
    values = torch.linspace(-8, 8, 65)
    if not torch.allclose(layer.act(values), F.silu(values)):
        raise ValueError(f"the text tower's activation is {layer.act}; expected SiLU")
    weight, eps, size = layer.norm_in.weight, layer.norm_in.eps, layer.head_dim
    random = _Random(weight)
    query_weight, key_weight = layer.qk_norm_weight[0], layer.qk_norm_weight[layer.query_heads]
    heads = random(layer.query_heads + 2 * layer.key_heads, size)
    return {
        "add_rms_norm": (random(len(weight)), random(len(weight)), weight, eps),
        "qk_norm_rotary": (
            heads, query_weight, key_weight, layer.query_heads, random.tables(size), eps,
        ),
        "swiglu": (random(len(layer.gate_up.weight)),),
    }  # fmt: skip


def vision_calls(block: Any) -> Calls:
    """Makes arguments for the operations of the vision tower.

    Args:
        block: one of its blocks, whose weights and sizes are used.
    """
    norm, up = block.norm1, block.up
    random, width = _Random(norm.weight), len(norm.weight)
    size = width // block.heads
    calls = {
        "add_layer_norm": (random(width), random(width), norm.weight, norm.bias, norm.eps),
        "vision_rotary": (random(3 * block.heads, size), random.tables(size)),
    }
    if up.gelu == "tanh":
        calls["linear_gelu"] = (random(width), up.weight, up.bias)
    return calls


class _Random:
    """Draws tensors of a few rows, with the dtype and on the device of another tensor."""

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> torch.Tensor:
        drawn = torch.randn(_ROWS, *shape, generator=self._generator)
        return drawn.to(self._like.device, self._like.dtype)

    def tables(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.randn(_ROWS, size // 2, generator=self._generator).repeat(1, 2)
        return angles.cos().to(self._like.device), angles.sin().to(self._like.device)


def _fault(operations: LayerOperations, name: str, arguments: tuple[Any, ...]) -> str:
    """Runs an operation; returns what is wrong with it, or nothing."""
    dtype = arguments[0].dtype
    ours, exact = _converted(arguments, dtype), _converted(arguments, torch.float32)
    try:
        results = getattr(operations, name)(*ours), *ours
        differences = [
            _difference(one, other, dtype)
            for one, other in zip(
                _tensors(results), _tensors((getattr(PYTORCH, name)(*exact), *exact)), strict=True
            )
        ]
    except Exception as error:  # Triton has many types of errors
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return f"{type(error).__name__}: {first_line}"[:_MAX_CAUSE]
    wrong = [each for each in differences if not each <= _MAX_DIFFERENCE]  # or NaN
    return f"differs from PyTorch by {wrong[0]:.1f} units in the last place" if wrong else ""


def _difference(result: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> float:
    largest = exact.abs().max().clamp(min=1e-6)  # biases may all be zero
    unit = torch.finfo(dtype).eps * largest
    return float(((result.float() - exact.float()).abs().max() / unit).cpu())


def _converted(arguments: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Copies arguments; tensors of the operation's dtype get another one, tables stay float32."""
    own = arguments[0].dtype
    return tuple(
        argument.to(dtype, copy=True)
        if isinstance(argument, torch.Tensor) and argument.dtype == own
        else argument
        for argument in arguments
    )


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    """The result, if any, and the arguments that the operation may have written to."""
    return (value for value in values if isinstance(value, torch.Tensor))
