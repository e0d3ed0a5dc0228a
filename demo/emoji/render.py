"""Emoji font -> pictures.

Noto Color Emoji holds one bitmap of 136 x 128 pixels per emoji; what it cannot show as one bitmap
(emoji newer than the font) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from tqdm import tqdm

from demo.emoji.concepts import Picture
from lensemble_contract.errors import InvalidInputError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 128
"""Side of a rendered picture in pixels."""

_FONT_SIZE = 109  # the only size that the font has
_BITMAP = 136


def render(
    pictures: Sequence[Picture], font_file: Path = FONT, *, progress: bool = False
) -> dict[str, NDArray[np.uint8]]:
    """Renders pictures.

    Args:
        pictures: Which.
        font_file: Debian's `fonts-noto-color-emoji`.
        progress: Whether to show a progress bar.

    Returns:
        Picture id -> (128, 128, 4) uint8 RGBA, without those that the font lacks.

    Raises:
        InvalidInputError: There is no such font, or Pillow cannot compose its emoji.
    """
    if not font_file.is_file():
        raise InvalidInputError(
            f"no font {str(font_file)!r}; install Debian's fonts-noto-color-emoji, or say where "
            "NotoColorEmoji.ttf is",
            field="font",
        )
    if not features.check("raqm"):
        raise InvalidInputError(
            "this Pillow has no Raqm, so emoji of several characters come out as their parts; "
            "install libfribidi0",
            field="font",
        )
    font = ImageFont.truetype(str(font_file), _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    rendered = {}
    for picture in tqdm(pictures, desc="pictures", disable=not progress):
        canvas = Image.new("RGBA", (_BITMAP, _BITMAP))
        # Wider than one bitmap: a sequence that the font shows as its parts.
        if font.getlength(picture.emoji) > _BITMAP:
            continue
        ImageDraw.Draw(canvas).text((0, 4), picture.emoji, font=font, embedded_color=True)
        if canvas.getbbox() is not None:
            small = canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            rendered[picture.id] = np.asarray(small)
    return rendered


def on_white(rgba: NDArray[np.uint8], size: int) -> Image.Image:
    """A rendered picture on white.

    Args:
        rgba: (128, 128, 4) uint8.
        size: Side of the result in pixels.
    """
    picture = Image.fromarray(rgba)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return white.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
