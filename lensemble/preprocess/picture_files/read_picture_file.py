"""Reads a picture file of any format, which its first bytes tell."""

from __future__ import annotations

import struct

from lensemble.preprocess.picture_files.bmp import read_bmp
from lensemble.preprocess.picture_files.gif import read_gif
from lensemble.preprocess.picture_files.jpeg import read_jpeg
from lensemble.preprocess.picture_files.picture_file import PictureFile, damaged
from lensemble.preprocess.picture_files.png import SIGNATURE, read_png
from lensemble.preprocess.picture_files.tiff import PREFIXES, read_tiff
from lensemble.preprocess.picture_files.webp import read_webp
from lensemble_contract.errors import InvalidInputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Format, how its files begin, and its reader.
_READERS = (
    ("JPEG", (b"\xff\xd8\xff",), read_jpeg),
    ("PNG", (SIGNATURE,), read_png),
    ("WEBP", (b"RIFF",), read_webp),
    ("GIF", (b"GIF87a", b"GIF89a"), read_gif),
    ("BMP", (b"BM",), read_bmp),
    ("TIFF", PREFIXES, read_tiff),
)


def read_picture_file(data: bytes, field: str) -> PictureFile:
    """Checks a picture file, and leaves out what does not change the pixels of its first picture.

    Args:
        data: the file.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: It is in none of `FORMATS`, is damaged, or would cause too much work.
    """
    for format_, prefixes, read in _READERS:
        if data.startswith(prefixes) and (format_ != "WEBP" or data[8:12] == b"WEBP"):
            try:
                return read(data, field)
            except (IndexError, OverflowError, struct.error):
                raise damaged(format_, "it is cut off", field) from None
    raise not_a_picture(data, field)


def not_a_picture(data: bytes, field: str) -> InvalidInputError:
    """The error for bytes in which no picture is found."""
    return InvalidInputError(
        f"not a picture that can be read ({len(data)} bytes starting with {data[:8]!r}); "
        f"expected {', '.join(FORMATS)}",
        field=field,
        reason="not_a_picture",
    )
