"""Hostile pictures: damaged files of many kinds, files that are none, and traps."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from PIL import Image

from benchmarks.faults.pictures.bombs import HARMLESS_BOMBS, REFUSED_BOMBS
from benchmarks.faults.pictures.png import SIGNATURE, chunk, png
from benchmarks.faults.pictures.small_formats import bmp, gif, jpeg, webp
from benchmarks.faults.pictures.tiff import tiff, with_directory


def valid_pictures() -> dict[str, bytes]:
    """Returns name -> picture: one per format and mode, and some unusual ones."""
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
    pictures: dict[str, bytes] = {}
    for name, picture, kind in (
        ("png", base, "PNG"),
        ("jpeg", base, "JPEG"),
        ("webp", base, "WEBP"),
        ("gif", base, "GIF"),
        ("bmp", base, "BMP"),
        ("tiff", base, "TIFF"),
        ("cmyk", base.convert("CMYK"), "JPEG"),
        ("palette", base.convert("P"), "PNG"),
        ("16 bit", Image.fromarray(rng.integers(0, 65536, (48, 64), np.uint16)), "PNG"),
        ("alpha", base.convert("RGBA"), "PNG"),
        ("one pixel", base.resize((1, 1)), "PNG"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        pictures[name] = buffer.getvalue()
    frames = io.BytesIO()
    base.save(frames, "GIF", save_all=True, append_images=[base.rotate(90)] * 5)
    broken = io.BytesIO()
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + rng.bytes(64)
    base.save(broken, "JPEG", exif=exif, icc_profile=rng.bytes(600))
    unusual = {"animated": frames.getvalue(), "broken exif and icc": broken.getvalue()}
    return {**pictures, **unusual, **_odd_pictures(rng)}


def _odd_pictures(rng: np.random.Generator) -> dict[str, bytes]:
    """Returns pictures of odd depths and layouts; some of them are refused by name."""
    grey = rng.integers(0, 64, (24, 40, 1))
    colours = [(n, 255 - n, n) for n in range(128)]
    return {
        "png 1 bit": png(grey % 2, 1, transparent=[1]),
        "png 16 bit transparent": png(grey, 16, transparent=[7]),
        "png 16 bit rgb transparent": png(grey.repeat(3, 2), 16, transparent=[7, 7, 7]),
        "png interlaced": png(grey, interlaced=True),
        "tiff 12 bit": tiff(grey, 12),
        "tiff 10 bit": tiff(grey, 10),
        "tiff white is zero": tiff(grey, 16, 0, order=">"),
        "tiff planes": tiff(grey.repeat(3, 2), 16, 2, planar=True, compression=8),
        "tiff tiles": tiff(grey.repeat(3, 2), 8, 2, tile=16, compression=5),
        "tiff signed": tiff(grey, 8, tags={339: (3, [2])}),
        "big tiff": tiff(grey, 8, is_big=True),
        "bmp palette": bmp(grey, 8, palette=colours[:64]),
        "bmp runs": bmp(grey, 8, palette=colours[:64], compression=1),
        "gif interlaced": gif(grey[:, :, 0], colours, interlaced=True, transparent=3),
        "webp lossless": webp(40, 24, [(1, 2, 3, 255), (1, 200, 3, 9)]),
        "jpeg blocks": jpeg(grey[:3, :5]),
    }


def hostile_pictures(
    rng: np.random.Generator, valid: dict[str, bytes]
) -> Iterator[tuple[str, bytes]]:
    """Yields what is wrong with a picture, and the picture.

    Args:
        rng: draws where the damage is.
        valid: pictures to damage, from `valid_pictures`.
    """
    bombs = REFUSED_BOMBS | HARMLESS_BOMBS
    traps = ((f"trap: {name}", make()) for name, make in bombs.items())
    for pair in zip_longest(_damaged(rng, valid), traps):
        yield from (picture for picture in pair if picture is not None)


def _damaged(rng: np.random.Generator, valid: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, data in valid.items():
        yield f"{name} as it is", data
        yield f"{name} truncated", data[: int(rng.integers(0, len(data)))]
        flipped = bytearray(data)
        for _ in range(int(rng.integers(1, 12))):
            flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        yield f"{name} with flipped bits", bytes(flipped)
        cut = int(rng.integers(len(data)))
        noise = rng.bytes(int(rng.integers(1, 64)))
        yield f"{name} with noise inside", data[:cut] + noise + data[cut:]
        yield f"{name} with noise at the end", data + noise
    yield "noise", rng.bytes(int(rng.integers(1, 4096)))
    yield "empty", b""
    yield "zeros", bytes(int(rng.integers(1, 4096)))
    yield "script", b"<svg onload=alert(1)>" + rng.bytes(32)
    yield "archive", b"PK\x03\x04" + valid["png"]
    yield "polyglot", valid["jpeg"] + b"PK\x05\x06" + bytes(18)
    width, height = (int(rng.integers(1, 2**31)) for _ in range(2))
    yield "png bomb", _png(width, height)
    yield "thin png", _png(1, int(rng.integers(300, 50_000)))
    yield "tiff bomb", _tiff(int(rng.integers(20_000, 2**31)), int(rng.integers(20_000, 2**31)))
    yield "compressed bomb", _png(60_000, 60_000, zlib.compress(bytes(1 << 20), 9))


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """Returns a PNG whose header claims a size, with no or too few pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + head + chunk(b"IDAT", data) + chunk(b"IEND")


def _tiff(width: int, height: int) -> bytes:
    """Returns a TIFF whose strip of pixels is missing."""
    sizes = {256: (4, [width]), 257: (4, [height])}
    return with_directory(
        b"", {**sizes, 258: (3, [8]), 262: (3, [1]), 273: (4, [8]), 279: (4, [9])}
    )
