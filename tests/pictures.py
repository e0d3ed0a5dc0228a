"""Functions that make pictures with known pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def textured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with fine noise, so that a wrong resizing changes many pixels."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(width), np.arange(height)[:, None]
    waves = [np.sin(x / (7 + 5 * c) + c) + np.cos(y / (11 + 3 * c)) for c in range(3)]
    pixels = 128 + 45 * np.stack(waves, axis=-1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header states a size but which has no pixels: decoding it would fail."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")
