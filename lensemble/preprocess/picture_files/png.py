"""Reads PNG files (ISO/IEC 15948): only the chunks that make the pixels are kept."""

from __future__ import annotations

import struct
import zlib

from lensemble.preprocess.picture_files.orientation import orientation_of
from lensemble.preprocess.picture_files.picture_file import (
    MAX_PARTS,
    PictureFile,
    damaged,
    too_many_parts,
    unsupported,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_TEXTS = (b"iTXt", b"zTXt", b"tEXt")
_XMP, _EXIF_TEXT = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
# Bytes of a compressed text that are looked at for the orientation.
_MAX_TEXT = 1024 * 1024


def read_png(data: bytes, field: str) -> PictureFile:
    """Checks a PNG file, and keeps the chunks of its (first) picture.

    Raises:
        InvalidInputError: It has too many chunks, or a kind of pixels that cannot be decoded.
    """
    kept = [SIGNATURE]
    depth = colour = None
    exif = xmp = None
    position = len(SIGNATURE)
    parts = 0
    while position + 8 <= len(data):
        parts += 1
        if parts > MAX_PARTS:
            raise too_many_parts("chunks", field)
        length, kind = struct.unpack_from(">I4s", data, position)
        body_start, end = position + 8, position + 12 + length
        if kind == b"IHDR" and length == 13:
            depth, colour = data[body_start + 8], data[body_start + 9]
        if kind in _KEPT:
            kept.append(data[position:end])
        elif kind == b"tRNS":
            kept.append(_transparency(data[body_start : end - 4], depth, colour, field))
        elif kind == b"eXIf" and exif is None:
            exif = data[body_start : end - 4]
        elif kind in _TEXTS:
            if xmp is None and data.startswith(_XMP, body_start):
                xmp = _text(kind, data[body_start : end - 4])
            elif exif is None and data.startswith(_EXIF_TEXT, body_start):
                exif = _exif_of_text(_text(kind, data[body_start : end - 4]))
        if kind == b"IEND":
            break
        position = end
    return PictureFile("PNG", b"".join(kept), orientation=orientation_of(exif, xmp))


def _transparency(body: bytes, depth: int | None, colour: int | None, field: str) -> bytes:
    """The chunk `tRNS` with the values that Pillow expects; empty if it has no meaning.

    The chunk states the transparent colour in samples of the file's depth. Pillow compares it with
    decoded samples of 8 or 16 bits.
    """
    if colour == _PALETTE:
        return _chunk(b"tRNS", body)
    count = {_GREY: 1, _RGB: 3}.get(-1 if colour is None else colour)
    if depth is None or count is None:
        return b""
    if len(body) < 2 * count:
        raise damaged("PNG", "the chunk tRNS is cut off", field)
    if depth == 16 and colour == _RGB:
        raise unsupported("a PNG with 16 bits a channel and a transparent colour (tRNS)", field)
    values = struct.unpack_from(f">{count}H", body)
    if depth < 16:
        largest = (1 << depth) - 1
        # Pillow decodes 1 bit to 0 and 255, and compares it with 0 and 1.
        scale = 1 if depth == 1 else 255 // largest
        values = tuple((value & largest) * scale for value in values)
    return _chunk(b"tRNS", struct.pack(f">{count}H", *values))


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def _text(kind: bytes, body: bytes) -> bytes:
    """The value of a text chunk, up to `_MAX_TEXT` bytes; empty if it is damaged."""
    _, _, rest = body.partition(b"\0")
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    elif is_compressed:
        rest = rest[1:]
    if not is_compressed:
        return rest[:_MAX_TEXT]
    try:
        return zlib.decompressobj().decompress(rest, _MAX_TEXT)
    except zlib.error:
        return b""


def _exif_of_text(text: bytes) -> bytes:
    """EXIF data that ImageMagick wrote as a text: name, length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
