"""Finds the orientation of a picture in its EXIF or XMP data, without reading the rest of them."""

from __future__ import annotations

import re
import struct

_EXIF_PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 274
_SHORT = 3
# Entries that are looked at. The entries are sorted by tag, and there are 30 tags before it.
_MAX_ENTRIES = 256
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """The orientation that EXIF data states, otherwise the one in XMP data, otherwise 1.

    Args:
        exif: a block of EXIF data (EXIF 2.32), with or without the prefix that it has in a JPEG.
        xmp: a block of XMP data.
    """
    orientation = None if exif is None else _read_exif(exif.removeprefix(_EXIF_PREFIX))
    if orientation is None and xmp is not None and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def _read_exif(exif: bytes) -> int | None:
    """The value of the tag in the first directory; None if there is none or the data is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for n in range(min(count, _MAX_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * n)
            if tag == _ORIENTATION_TAG and kind == _SHORT:
                return int(value)
    except struct.error:  # damaged EXIF data does not make the pixels unusable
        pass
    return None
