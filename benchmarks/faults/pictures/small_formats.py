"""Writes BMP, GIF, WebP and JPEG files of simple kinds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.faults.pictures.png import pack_rows


def bmp(
    samples: np.ndarray[Any, Any],
    bits: int = 24,
    *,
    palette: Sequence[Sequence[int]] | None = None,
    colours: int | None = None,
    masks: Sequence[int] = (),
    compression: int = 0,
    top_down: bool = False,
    core_header: bool = False,
    pixels: bytes | None = None,
) -> bytes:
    """Writes a BMP file.

    Args:
        samples: (H, W, C) integers: palette indices (C 1), pixels of 16 or 32 bits (C 1), or blue,
            green and red (C 3).
        bits: bits of a pixel.
        palette: (red, green, blue) of each entry.
        colours: number of entries as the header states it; None states the palette's.
        masks: of 16- and 32-bit pixels: the bits of red, green, blue and alpha.
        compression: 0 none, 1 runs of 8 bits, 2 runs of 4 bits.
        top_down: whether the first row of the file is the top one.
        core_header: whether to write the short header of OS/2.
        pixels: encoded rows; None packs `samples`.
    """
    height, width, channels = samples.shape
    rows = pack_rows(samples, bits // channels, "<")
    if not top_down:
        rows.reverse()
    if pixels is None:
        pixels = b"".join(row + bytes(-len(row) % 4) for row in rows)
    stated = len(palette or ()) if colours is None else colours
    if core_header:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
        table = b"".join(bytes(reversed(entry)) for entry in palette or ())
    else:
        compression = 3 if masks else compression
        sides = width, -height if top_down else height
        fields = struct.pack("<iiHHIIiiII", *sides, 1, bits, compression, 0, 0, 0, stated, 0)
        # With alpha, the header is that of version 4.
        header = struct.pack("<I", 108 if len(masks) == 4 else 40) + fields
        header += struct.pack(f"<{len(masks)}I", *masks)
        header += bytes(52) if len(masks) == 4 else b""
        table = b"".join(bytes(reversed(entry)) + b"\0" for entry in palette or ())
    offset = 14 + len(header) + len(table)
    file_header = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    return file_header + header + table + pixels


def gif(
    indices: np.ndarray[Any, Any],
    palette: Sequence[Sequence[int]],
    *,
    transparent: int | None = None,
    interlaced: bool = False,
    local_palette: bool = False,
    before: bytes = b"",
) -> bytes:
    """Writes a GIF file of (H, W) indices below 128, in codes of 8 bits that are never compressed.

    Args:
        indices: numbers of colours.
        palette: (red, green, blue) of at most 128 colours.
        transparent: number of the transparent colour.
        interlaced: whether the rows are in GIF's interlaced order.
        local_palette: whether the palette belongs to the picture, not to the file.
        before: extension blocks before the picture.
    """
    height, width = indices.shape
    table = bytes(value for entry in palette for value in entry).ljust(3 * 128, b"\0")
    flags = 0x80 | 6  # a table of 128 colours follows
    if interlaced:
        order = [row for first, step in ((0, 8), (4, 8), (2, 4), (1, 2))
                 for row in range(first, height, step)]  # fmt: skip
        indices = indices[order]
    clear, end = 128, 129
    codes = bytearray()
    for n, value in enumerate(indices.ravel().tolist()):
        if n % 100 == 0:  # before the table grows to codes of 9 bits
            codes.append(clear)
        codes.append(value)
    codes.append(end)
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0 if local_palette else flags, 0, 0)
    parts = [screen, b"" if local_palette else table, before]
    if transparent is not None:
        parts.append(struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 1, 0, transparent, 0))
    picture_flags = (flags if local_palette else 0) | 0x40 * interlaced
    parts.append(struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, picture_flags))
    parts += [table if local_palette else b"", bytes([7]), blocks(bytes(codes)), b";"]
    return b"".join(parts)


def blocks(data: bytes, length: int = 255) -> bytes:
    """GIF's sequence of data blocks."""
    parts = (data[n : n + length] for n in range(0, len(data), length))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def webp(width: int, height: int, values: Sequence[Sequence[int]], has_alpha: bool = True) -> bytes:
    """Writes a lossless WebP file whose columns have two colours by turns.

    Args:
        width: width in pixels.
        height: height in pixels.
        values: two colours (red, green, blue, alpha) that differ in green.
        has_alpha: whether the file says that it has transparency.
    """
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> n & 1 for n in range(count))

    put(0x2F, 8)
    put(width - 1, 14)
    put(height - 1, 14)
    put(int(has_alpha), 1)
    put(0, 3 + 1 + 1 + 1)  # version, no transform, no colour cache, one group of codes
    first, second = values
    # Green, red, blue and alpha have a code of one or two symbols; distances have none.
    for channel in (1, 0, 2, 3):
        symbols = sorted({first[channel], second[channel]})
        put(1, 1)
        put(len(symbols) - 1, 1)
        put(1, 1)  # the first symbol has 8 bits
        for symbol in symbols:
            put(symbol, 8)
    put(1, 1)
    put(0, 1)
    put(0, 1)
    put(0, 1)
    for _ in range(height):
        for column in range(width):
            for channel in (1, 0, 2, 3):
                if first[channel] != second[channel]:
                    colour = values[column % 2][channel]
                    put(int(colour == max(first[channel], second[channel])), 1)
    stream = np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()
    body = b"VP8L" + struct.pack("<I", len(stream)) + stream + bytes(len(stream) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg(blocks_: np.ndarray[Any, Any], *, before: bytes = b"", adobe: bool = False) -> bytes:
    """Writes a sequential JPEG in which each block of 8x8 pixels has one value.

    Args:
        blocks_: (H/8, W/8, C) values from 0 to 255; C is 1 for grey, 3 for YCbCr, 4 for CMYK.
        before: segments before the frame.
        adobe: whether an Adobe segment says that the components are not transformed.
    """
    rows, columns, channels = blocks_.shape
    head = b"\xff\xd8" + before
    if adobe:
        head += segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0))
    head += segment(0xDB, bytes([0]) + b"\x01" * 64)
    components = b"".join(bytes([c + 1, 0x11, 0]) for c in range(channels))
    frame = struct.pack(">BHHB", 8, 8 * rows, 8 * columns, channels) + components
    head += segment(0xC0, frame)
    # DC: categories 0 to 11 with codes of 4 bits. AC: the end of a block, one bit.
    head += segment(0xC4, bytes([0x00, 0, 0, 0, 12, *[0] * 12, *range(12)]))
    head += segment(0xC4, bytes([0x10, 1, *[0] * 15, 0]))
    scan = bytes([channels]) + b"".join(bytes([c + 1, 0]) for c in range(channels))
    head += segment(0xDA, scan + bytes([0, 63, 0]))
    bits = ""
    last = [0] * channels
    for block in blocks_.reshape(-1, channels).astype(int).tolist():
        for channel, value in enumerate(block):
            dc = (value - 128) * 8
            difference, last[channel] = dc - last[channel], dc
            category = abs(difference).bit_length()
            bits += f"{category:04b}"
            if category:
                coded = difference if difference > 0 else difference + (1 << category) - 1
                bits += f"{coded:0{category}b}"
            bits += "0"
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8))
    return head + data.replace(b"\xff", b"\xff\x00") + b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its marker and its length."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
