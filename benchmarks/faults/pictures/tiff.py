"""Writes TIFF files: depths, byte orders, planes, strips, tiles, compressions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.faults.pictures.png import pack_rows

_SHORT, _LONG, _LONG8 = 3, 4, 16
_LETTERS = {1: "B", _SHORT: "H", _LONG: "I", _LONG8: "Q"}
_REVERSED_BITS = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def packbits(data: bytes) -> bytes:
    """PackBits, with literal runs only."""
    runs = (data[n : n + 128] for n in range(0, len(data), 128))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def lzw(data: bytes) -> bytes:
    """TIFF's LZW with codes of 9 bits only: the table is cleared before it grows."""
    codes = []
    for n, value in enumerate(data):
        if n % 200 == 0:
            codes.append(256)
        codes.append(value)
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8))


COMPRESSIONS: Mapping[int, Callable[[bytes], bytes]] = {
    1: lambda data: data, 5: lzw, 8: zlib.compress, 32773: packbits
}  # fmt: skip


def tiff(
    samples: np.ndarray[Any, Any],
    bits: int = 8,
    photometric: int = 1,
    *,
    order: str = "<",
    is_big: bool = False,
    compression: int = 1,
    planar: bool = False,
    reversed_bits: bool = False,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    extra: Sequence[int] = (),
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Writes a TIFF file of one page.

    Args:
        samples: (H, W, C) integers of `bits` bits.
        bits: bits of a sample.
        photometric: what the samples mean: 0 grey (0 is white), 1 grey, 2 RGB, 3 palette, 5 CMYK.
        order: byte order, `<` or `>`.
        is_big: whether to write a BigTIFF.
        compression: a key of `COMPRESSIONS`.
        planar: whether each channel is stored by itself.
        reversed_bits: whether the first sample is in the lowest bits (FillOrder 2).
        rows_per_strip: rows of a strip; None makes one strip.
        tile: side of the square tiles; None makes strips.
        extra: what the extra samples mean (ExtraSamples).
        tags: further tags, or other values: tag -> type and numbers.
    """
    height, width, channels = samples.shape
    planes = [samples[:, :, c : c + 1] for c in range(channels)] if planar else [samples]
    segments = []
    for plane in planes:
        for image in _pieces(plane, rows_per_strip or height, tile):
            data = b"".join(pack_rows(image, bits, order))
            data = data.translate(_REVERSED_BITS) if reversed_bits else data
            segments.append(COMPRESSIONS[compression](data))
    start = 16 if is_big else 8
    offsets = [start + sum(map(len, segments[:n])) for n in range(len(segments))]
    values: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * channels),
        259: (_SHORT, [compression]),
        262: (_SHORT, [photometric]),
        266: (_SHORT, [2 if reversed_bits else 1]),
        277: (_SHORT, [channels]),
        284: (_SHORT, [2 if planar else 1]),
    }
    if extra:
        values[338] = _SHORT, extra
    if tile is None:
        values[278] = _LONG, [rows_per_strip or height]
    else:
        values[322] = values[323] = _LONG, [tile]
    offset_type = _LONG8 if is_big else _LONG
    values[273 if tile is None else 324] = offset_type, offsets
    values[279 if tile is None else 325] = offset_type, [len(segment) for segment in segments]
    values.update(tags or {})
    return with_directory(b"".join(segments), values, order, is_big=is_big)


def _pieces(plane: np.ndarray[Any, Any], rows: int, tile: int | None) -> list[np.ndarray[Any, Any]]:
    """Cuts a plane into strips or tiles; tiles are filled up with zeros."""
    height, width, channels = plane.shape
    if tile is None:
        return [plane[top : top + rows] for top in range(0, height, rows)]
    padded = np.zeros((-height % tile + height, -width % tile + width, channels), plane.dtype)
    padded[:height, :width] = plane
    return [
        padded[top : top + tile, left : left + tile]
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def with_directory(
    pixels: bytes,
    values: Mapping[int, tuple[int, Sequence[int]]],
    order: str = "<",
    *,
    is_big: bool = False,
) -> bytes:
    """Writes a header, the pixels, and a directory behind them.

    Args:
        pixels: bytes behind the header.
        values: tag -> type and numbers.
        order: byte order, `<` or `>`.
        is_big: whether to write a BigTIFF.
    """
    offset, count, inline = ("Q", "Q", 8) if is_big else ("I", "H", 4)
    mark = b"II" if order == "<" else b"MM"
    pixels += bytes(len(pixels) % 2)
    header = struct.pack(f"{order}2sH", mark, 43 if is_big else 42)
    header += struct.pack(f"{order}HH", 8, 0) if is_big else b""
    start = len(header) + inline + len(pixels)
    header += struct.pack(f"{order}{offset}", start)
    entries = struct.pack(f"{order}{count}", len(values))
    behind = b""
    place = start + len(entries) + (12 + 2 * (inline - 4)) * len(values) + inline
    for tag, (kind, numbers) in sorted(values.items()):
        value = struct.pack(f"{order}{len(numbers)}{_LETTERS[kind]}", *numbers)
        if len(value) > inline:
            pointer = struct.pack(f"{order}{offset}", place + len(behind))
            behind += value + bytes(len(value) % 2)
            value = pointer
        entries += struct.pack(f"{order}HH{offset}", tag, kind, len(numbers))
        entries += value.ljust(inline, b"\0")
    return header + pixels + entries + bytes(inline) + behind
