"""Reads WebP files (RFC 9649): the first picture is kept."""

from __future__ import annotations

import struct

from lensemble.preprocess.picture_files.orientation import orientation_of
from lensemble.preprocess.picture_files.picture_file import (
    MAX_PARTS,
    PictureFile,
    damaged,
    too_many_parts,
)

_FIRST_CHUNK = 12
# Flags of the chunk VP8X for what is kept: animation and alpha.
_KEPT_FLAGS = 0x02 | 0x10
_METADATA = (b"ICCP", b"EXIF", b"XMP ")
_FRAME = b"ANMF"


def read_webp(data: bytes, field: str) -> PictureFile:
    """Checks a WebP file; keeps the still picture, or the first frame of an animation.

    Raises:
        InvalidInputError: It has too many chunks.
    """
    kept: list[bytes] = []
    metadata: dict[bytes, bytes] = {}
    has_frame = False
    position = _FIRST_CHUNK
    parts = 0
    while position + 8 <= len(data):
        parts += 1
        if parts > MAX_PARTS:
            raise too_many_parts("chunks", field)
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        chunk = data[position:end]
        if kind in _METADATA:
            metadata.setdefault(kind, chunk[8 : 8 + length])
        elif kind == b"VP8X" and length >= 10:
            kept.append(chunk[:8] + bytes([chunk[8] & _KEPT_FLAGS]) + chunk[9:])
        elif kind != _FRAME or not has_frame:
            kept.append(chunk)
            has_frame = has_frame or kind == _FRAME
        position = end
    if not kept:
        raise damaged("WEBP", "no picture in it", field)
    body = b"WEBP" + b"".join(kept)
    orientation = orientation_of(metadata.get(b"EXIF"), metadata.get(b"XMP "))
    return PictureFile(
        "WEBP", b"RIFF" + struct.pack("<I", len(body)) + body, orientation=orientation
    )
