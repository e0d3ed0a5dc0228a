"""Writes PNG files of every depth and kind of colour."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type (PNG, table 11.1) by the number of channels; a palette is asked for by giving one.
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PALETTE = 3
# Adam7: first row, first column, and the distances to the next ones, of each pass.
_PASSES = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A chunk with its length and its checksum."""
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def png(
    samples: np.ndarray[Any, Any],
    depth: int = 8,
    *,
    transparent: Sequence[int] | bytes | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    interlaced: bool = False,
    chunks: Iterable[bytes] = (),
) -> bytes:
    """Writes a PNG file.

    Args:
        samples: (H, W, C) integers of `depth` bits; C is 1 for grey and palettes, 2 for grey with
            alpha, 3 for RGB, 4 for RGBA.
        depth: bits of a sample.
        transparent: the transparent colour as C samples, or the alpha of each palette entry.
        palette: colours of the palette.
        interlaced: whether the pixels are in the order of Adam7.
        chunks: further chunks, before the pixels.
    """
    height, width, channels = samples.shape
    colour = _COLOUR_TYPES[channels] if palette is None else _PALETTE
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [SIGNATURE, chunk(b"IHDR", head), *chunks]
    if palette is not None:
        parts.append(chunk(b"PLTE", bytes(value for entry in palette for value in entry)))
    if transparent is not None:
        is_alpha = isinstance(transparent, bytes)
        body = transparent if is_alpha else struct.pack(f">{len(transparent)}H", *transparent)
        parts.append(chunk(b"tRNS", bytes(body)))
    if interlaced:
        images = [samples[row::down, column::right] for row, column, down, right in _PASSES]
    else:
        images = [samples]
    # Each row begins with the number of its filter: none.
    rows = b"".join(
        b"\0" + packed for image in images if image.size for packed in pack_rows(image, depth)
    )
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")])


def pack_rows(samples: np.ndarray[Any, Any], depth: int, order: str = ">") -> list[bytes]:
    """Packs each row of (H, W, C) samples, first sample into the highest bits of a byte.

    Args:
        samples: integers of `depth` bits.
        depth: bits of a sample.
        order: byte order of samples of 16 and 32 bits, `<` or `>`.
    """
    flat = samples.reshape(len(samples), -1)
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    if depth in (16, 32):
        return [row.astype(f"{order}u{depth // 8}").tobytes() for row in flat]
    bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(row).tobytes() for row in bits.astype(np.uint8).reshape(len(flat), -1)]
