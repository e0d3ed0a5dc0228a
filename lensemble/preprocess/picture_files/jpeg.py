"""Reads JPEG files (ITU-T T.81): the scans are counted, and metadata is left out."""

from __future__ import annotations

import re

from lensemble.preprocess.picture_files.orientation import orientation_of
from lensemble.preprocess.picture_files.picture_file import (
    PictureFile,
    damaged,
    too_many_parts,
    unsupported,
)

# Each costs Pillow 10 microseconds. A colour profile of 20 MiB has 320, and a scan may have a few.
_MAX_SEGMENTS = 10_000
# A marker, as the decoder finds it. FF00 is an escaped byte, FFFF padding, and FFD0 to FFD7 restart
# markers, of which pixels contain many.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Markers without a length: temporary, and those that are reserved.
_WITHOUT_LENGTH = frozenset((0x01, _SOI, *range(0x02, 0xC0)))
# Start-of-frame markers. Pillow decodes sequential, progressive and lossless pictures.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODABLE_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA))
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
# Application data that says what the components mean: JFIF and Adobe.
_COLOUR_DATA = (_APP0, _APP14)
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def read_jpeg(data: bytes, field: str) -> PictureFile:
    """Checks a JPEG file up to its first end marker, and leaves out metadata.

    Raises:
        InvalidInputError: It has too many segments, or a kind of pixels that cannot be decoded.
    """
    kept = [data[:2]]
    exif = xmp = None
    scans = position = parts = 0
    position = 2
    while (match := _MARKER.search(data, position)) is not None:
        parts += 1
        if parts > _MAX_SEGMENTS:
            raise too_many_parts("segments", field, _MAX_SEGMENTS)
        marker, start = data[match.start() + 1], match.start()
        if scans:  # pixels end where the next marker begins
            kept.append(data[position:start])
        if marker == _EOI:
            kept.append(data[start : start + 2])
            break
        end = start + 2
        if marker not in _WITHOUT_LENGTH:
            end += max(2, int.from_bytes(data[end : end + 2], "big"))
        segment = data[start:end]
        if marker in _FRAMES:
            _check_frame(marker, segment, field)
        scans += marker == _SOS
        if marker == _APP1:
            if exif is None and segment.startswith(_EXIF, 4):
                exif = segment[4:]
            elif xmp is None and segment.startswith(_XMP, 4):
                xmp = segment[4:]
        if not _is_metadata(marker):
            kept.append(segment)
        position = end
    else:
        kept.append(data[position:])
    return PictureFile("JPEG", b"".join(kept), max(1, scans), orientation=orientation_of(exif, xmp))


def _is_metadata(marker: int) -> bool:
    return marker == _COMMENT or (_APP0 <= marker <= _APP15 and marker not in _COLOUR_DATA)


def _check_frame(marker: int, segment: bytes, field: str) -> None:
    """Refuses frames that Pillow cannot decode; `segment` begins with the marker."""
    if len(segment) < 10:
        raise damaged("JPEG", "the frame header is cut off", field)
    bits, components = segment[4], segment[9]
    if bits != 8:
        raise unsupported(f"a JPEG with {bits} bits a sample", field)
    if marker not in _DECODABLE_FRAMES:
        raise unsupported("a hierarchical or lossless arithmetic JPEG", field)
    if components not in (1, 3, 4):
        raise unsupported(f"a JPEG with {components} components", field)
