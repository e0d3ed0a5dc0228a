"""Pictures made on the spot, with known pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def textured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with fine noise on them: resizing it wrongly shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (7 + 5 * c) + c) + np.cos(y / (11 + 3 * c)) for c in range(3)]
    pixels = 128 + 45 * np.stack(waves, axis=-1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
