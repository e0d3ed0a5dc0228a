"""Reads BMP files: palettes are written as Pillow reads them right."""

from __future__ import annotations

import struct

from lensemble.preprocess.picture_files.picture_file import PictureFile, unsupported

_FILE_HEADER, _CORE_HEADER, _INFO_HEADER = 14, 12, 40  # bytes
# Sizes of the headers whose palette is rewritten; Pillow refuses others.
_HEADER_SIZES = (_CORE_HEADER, _INFO_HEADER, 52, 56, 64, 108, 124)
_COLOURS = 256
_RLE8, _RLE4 = 1, 2
# Pillow decodes runs in Python: a pixel may take forty times as long as in C.
_RLE_PASSES = 40


def read_bmp(data: bytes, field: str) -> PictureFile:
    """Checks a BMP file, and rewrites its palette.

    Pillow guesses from a palette of few colours how many bits a pixel has, and so misreads 8-bit
    pictures with a palette of black and white. With a full palette it does not guess.

    Raises:
        InvalidInputError: Runs of 4-bit pixels are used.
        struct.error: The header is cut off.
    """
    (header_size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    layout = "<HHHH" if header_size == _CORE_HEADER else "<iiHHIIiiI"
    width, height, planes, bits, *more = struct.unpack_from(layout, data, _FILE_HEADER + 4)
    compression, colours = (more[0], more[4]) if more else (0, 0)
    if compression == _RLE4:
        raise unsupported("a BMP with run-length encoded 4-bit pixels", field)
    passes = _RLE_PASSES if compression == _RLE8 else 1
    if bits > 8 or header_size not in _HEADER_SIZES:
        return PictureFile("BMP", data, passes)
    entry_bytes = 4 if more else 3
    colours = min(colours or 1 << bits, _COLOURS)
    start = _FILE_HEADER + header_size
    palette = data[start : start + entry_bytes * colours]
    (pixels,) = struct.unpack_from("<I", data, 10)
    if pixels <= start:  # some writers forget the palette
        pixels = start + entry_bytes * colours
    entries = b"".join(
        palette[n : n + 3] + b"\0" for n in range(0, len(palette) - 2, entry_bytes)
    ).ljust(4 * _COLOURS, b"\0")
    header = struct.pack(
        "<IiiHHIIiiII", *(_INFO_HEADER, width, height, planes, bits, compression, 0, 0, 0),
        *(_COLOURS, 0),
    )  # fmt: skip
    offset = _FILE_HEADER + _INFO_HEADER + len(entries)
    size = offset + max(0, len(data) - pixels)
    file_header = struct.pack("<2sIHHI", b"BM", size, 0, 0, offset)
    return PictureFile("BMP", file_header + header + entries + data[pixels:], passes)
