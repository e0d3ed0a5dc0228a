"""Reads BMP files: palettes are written as Pillow reads them right."""

from __future__ import annotations

import struct

from lensemble.preprocess.picture_files.bmp_runs import unpack_runs
from lensemble.preprocess.picture_files.picture_file import PictureFile, damaged
from lensemble_contract import contract

_FILE_HEADER, _CORE_HEADER, _INFO_HEADER = 14, 12, 40  # bytes
# Sizes of the headers whose palette is rewritten; Pillow refuses others.
_HEADER_SIZES = (_CORE_HEADER, _INFO_HEADER, 52, 56, 64, 108, 124)
_COLOURS = 256
_NONE = 0
_RUN_BITS = {1: 8, 2: 4}  # compression -> bits of a pixel


def read_bmp(data: bytes, field: str) -> PictureFile:
    """Checks a BMP file, rewrites its palette, and unpacks runs.

    Pillow guesses from a palette of few colours how many bits a pixel has, and so misreads 8-bit
    pictures with a palette of black and white. With a full palette it does not guess.

    Raises:
        InvalidInputError: It has too many runs.
        IndexError: The runs are cut off.
        struct.error: The header is cut off.
    """
    (header_size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    layout = "<HHHH" if header_size == _CORE_HEADER else "<iiHHIIiiI"
    width, height, planes, bits, *more = struct.unpack_from(layout, data, _FILE_HEADER + 4)
    compression, colours = (more[0], more[4]) if more else (_NONE, 0)
    if bits > 8 or header_size not in _HEADER_SIZES:
        return PictureFile("BMP", data)
    entry_bytes = 4 if more else 3
    colours = min(colours or 1 << bits, _COLOURS)
    start = _FILE_HEADER + header_size
    palette = data[start : start + entry_bytes * colours]
    (place,) = struct.unpack_from("<I", data, 10)
    if place <= start:  # some writers forget the palette
        place = start + entry_bytes * colours
    pixels = data[place:]
    if compression in _RUN_BITS:
        if bits != _RUN_BITS[compression] or width <= 0 or height <= 0:
            raise damaged("BMP", "runs with other pixels, or from the top down", field)
        if width * height <= contract.MAX_IMAGE_PIXELS:  # more are refused later, by their size
            pixels = unpack_runs(pixels, bits, width, height, field)
            bits, compression = 8, _NONE
    entries = b"".join(
        palette[n : n + 3] + b"\0" for n in range(0, len(palette) - 2, entry_bytes)
    ).ljust(4 * _COLOURS, b"\0")
    header = struct.pack(
        "<IiiHHIIiiII", *(_INFO_HEADER, width, height, planes, bits, compression, 0, 0, 0),
        *(_COLOURS, 0),
    )  # fmt: skip
    offset = _FILE_HEADER + _INFO_HEADER + len(entries)
    file_header = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    return PictureFile("BMP", file_header + header + entries + pixels)
