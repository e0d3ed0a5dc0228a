"""EXIF orientation: ignored for Qwen3-VL, applied for the models whose reference applies it."""

import struct
import zlib

import numpy as np
import pytest

from benchmarks.faults.pictures.png import chunk, png
from benchmarks.faults.pictures.small_formats import jpeg
from benchmarks.faults.pictures.tiff import with_directory
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from tests.pictures import encode, textured
from tests.unit.preprocess.picture_cases import TURNS, samples

STORED = samples(8, 3)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def exif(orientation: int, order: str = "<") -> bytes:
    return with_directory(b"", {274: (3, [orientation])}, order)


def decode(data: bytes, *, upright: bool) -> np.ndarray:
    return np.asarray(decode_rgb(open_picture(data), upright=upright))


def text(kind: bytes, body: bytes) -> bytes:
    return png(STORED, chunks=[chunk(kind, body)])


def pictures(orientation: int) -> dict[str, bytes]:
    """PNG files of the same pixels that state an orientation in all ways that there are."""
    hexadecimal = (b"Exif\0\0" + exif(orientation)).hex().encode()
    raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n    38\n" + hexadecimal)
    xmp = XMP % orientation
    return {
        "EXIF": text(b"eXIf", exif(orientation)),
        "EXIF, big-endian": text(b"eXIf", exif(orientation, ">")),
        "XMP": text(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "XMP, compressed": text(
            b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)
        ),
        "EXIF as text": text(b"zTXt", raw),
    }  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", pictures(1))
def test_orientation_is_applied_only_where_it_is_asked_for(kind, orientation):
    data = pictures(orientation)[kind]
    np.testing.assert_array_equal(decode(data, upright=False), STORED)
    np.testing.assert_array_equal(decode(data, upright=True), TURNS[orientation](STORED))


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_of_jpeg_and_webp(orientation):
    block = b"Exif\0\0" + exif(orientation)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP % orientation
    stored = np.arange(6).reshape(2, 3, 1) * 50
    for body in (block, xmp):
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        data = jpeg(stored, before=segment)
        upright = TURNS[orientation](decode(data, upright=False))
        np.testing.assert_array_equal(decode(data, upright=True), upright)
        assert decode(data, upright=False).shape == (16, 24, 3)
    data = encode(textured(40, 24), "WEBP", lossless=True, exif=block)
    upright = TURNS[orientation](np.asarray(textured(40, 24)))
    np.testing.assert_array_equal(decode(data, upright=True), upright)


@pytest.mark.parametrize(
    "damaged", [b"", b"II", b"II*\0", exif(6)[:-8], exif(99), b"XX" + exif(6)[2:], exif(6)[:9]]
)
def test_damaged_exif_data_leaves_the_pixels_as_they_are(damaged):
    np.testing.assert_array_equal(decode(text(b"eXIf", damaged), upright=True), STORED)
