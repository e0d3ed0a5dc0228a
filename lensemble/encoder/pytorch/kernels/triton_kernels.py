"""The kernels, in Triton's language; `layer_operations` says what each computes.

One program handles one row, that is, a token or a patch (of `swiglu_kernel`: a part of a row). The
number of rows occurs in the grid alone, so one build serves all of them. Every size is a constant
of the build. Tiles have powers of two as sides, and masks leave out what lies beyond a size.

Row offsets are 64-bit: a row of gate and up in the 2B model has 12,288 numbers, so 175,000 rows
exceed 2^31 numbers.

This module imports Triton. Nothing imports it on a machine without a GPU, except tests.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_rms_norm_kernel(
    residual: tl.tensor,
    product: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row of `LayerOperations.add_rms_norm`; all pointers are to rows of SIZE numbers."""
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    places = tl.program_id(0).to(tl.int64) * SIZE + columns
    x = tl.load(product + places, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    # The norm is of the sum as it is stored, as in the reference.
    stored = x.to(product.dtype.element_ty)
    tl.store(product + places, stored, mask=inside)
    x = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, (x * scale * w).to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_layer_norm_kernel(
    residual: tl.tensor,
    product: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row of `LayerOperations.add_layer_norm`; all pointers are to rows of SIZE numbers."""
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    places = tl.program_id(0).to(tl.int64) * SIZE + columns
    x = tl.load(product + places, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    stored = x.to(product.dtype.element_ty)
    tl.store(product + places, stored, mask=inside)
    x = stored.to(tl.float32)
    centered = tl.where(inside, x - tl.sum(x, axis=0) / SIZE, 0.0)
    scale = tl.rsqrt(tl.sum(centered * centered, axis=0) / SIZE + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, (centered * scale * w + b).to(out.dtype.element_ty), mask=inside)


@triton.jit
def qk_norm_rotary_kernel(
    heads: tl.tensor,
    query_weight: tl.tensor,
    key_weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    eps: tl.tensor,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
) -> None:
    """A token of `LayerOperations.qk_norm_rotary`; a head has SIZE numbers.

    The two halves of a head are two tiles, because the rotation mixes number i with number
    i + SIZE / 2.
    """
    HALF: tl.constexpr = SIZE // 2
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, HALF_BLOCK)
    in_half = columns < HALF
    c = tl.load(cos + token * SIZE + columns, mask=in_half, other=0.0)[None, :]
    s = tl.load(sin + token * SIZE + columns, mask=in_half, other=0.0)[None, :]
    for part in tl.static_range(2):  # the query heads, then the key heads
        first = 0 if part == 0 else QUERIES
        count = QUERIES if part == 0 else KEYS
        weight = query_weight if part == 0 else key_weight
        rows = tl.arange(0, QUERY_BLOCK if part == 0 else KEY_BLOCK)
        inside = (rows < count)[:, None] & in_half[None, :]
        begin = heads + (token * (QUERIES + 2 * KEYS) + first) * SIZE
        places = begin + rows[:, None] * SIZE + columns[None, :]
        x1 = tl.load(places, mask=inside, other=0.0).to(tl.float32)
        x2 = tl.load(places + HALF, mask=inside, other=0.0).to(tl.float32)
        squares = tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)
        scale = tl.rsqrt(squares / SIZE + eps)[:, None]
        w1 = tl.load(weight + columns, mask=in_half, other=0.0).to(tl.float32)[None, :]
        w2 = tl.load(weight + HALF + columns, mask=in_half, other=0.0).to(tl.float32)[None, :]
        x1 = x1 * scale * w1
        x2 = x2 * scale * w2
        tl.store(places, (x1 * c - x2 * s).to(heads.dtype.element_ty), mask=inside)
        tl.store(places + HALF, (x2 * c + x1 * s).to(heads.dtype.element_ty), mask=inside)


@triton.jit
def vision_rotary_kernel(
    heads: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
) -> None:
    """A patch of `LayerOperations.vision_rotary`: HEADS queries, as many keys, and values."""
    HALF: tl.constexpr = SIZE // 2
    patch = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, HALF_BLOCK)
    in_half = columns < HALF
    c = tl.load(cos + patch * SIZE + columns, mask=in_half, other=0.0)[None, :]
    s = tl.load(sin + patch * SIZE + columns, mask=in_half, other=0.0)[None, :]
    rows = tl.arange(0, HEAD_BLOCK)
    inside = (rows < 2 * HEADS)[:, None] & in_half[None, :]
    places = heads + patch * (3 * HEADS * SIZE) + rows[:, None] * SIZE + columns[None, :]
    x1 = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(places + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(places, (x1 * c - x2 * s).to(heads.dtype.element_ty), mask=inside)
    tl.store(places + HALF, (x2 * c + x1 * s).to(heads.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_kernel(
    gate_up: tl.tensor,
    out: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """BLOCK columns of a row of `LayerOperations.swiglu`; SIZE is I."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < SIZE
    gate = tl.load(gate_up + row * (2 * SIZE) + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + columns, mask=inside, other=0.0)
    silu = gate / (1.0 + tl.exp(-gate))
    result = silu * up.to(tl.float32)
    tl.store(out + row * SIZE + columns, result.to(out.dtype.element_ty), mask=inside)
