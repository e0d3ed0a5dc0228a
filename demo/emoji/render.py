"""Renders emoji from a font.

Noto Color Emoji has one bitmap of 136 x 128 pixels per emoji. Emoji that it cannot show as a single
bitmap, because they are newer than the font, are left out.
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
# Side of a rendered picture in pixels.
SIZE = 128

_FONT_SIZE = 109  # the only size that the font has
_BITMAP = 136


def render(
    pictures: Sequence[Picture], font_file: Path = FONT, *, progress: bool = False
) -> dict[str, NDArray[np.uint8]]:
    """Renders pictures.

    Args:
        pictures: Pictures to render.
        font_file: Font of Debian's `fonts-noto-color-emoji`.
        progress: Whether to show a progress bar.

    Returns:
        Picture id -> (128, 128, 4) uint8 RGBA, without pictures that the font cannot show.

    Raises:
        InvalidInputError: The font is missing, or Pillow cannot compose emoji.
    """
    if not font_file.is_file():
        raise InvalidInputError(
            f"no font {str(font_file)!r}; install Debian's fonts-noto-color-emoji, or pass the "
            "path of NotoColorEmoji.ttf",
            field="font",
        )
    if not features.check("raqm"):
        raise InvalidInputError(
            "this Pillow has no Raqm, so emoji of several characters are drawn as their parts; "
            "install libfribidi0",
            field="font",
        )
    font = ImageFont.truetype(str(font_file), _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    rendered = {}
    for picture in tqdm(pictures, desc="pictures", disable=not progress):
        canvas = Image.new("RGBA", (_BITMAP, _BITMAP))
        # A sequence that is wider than one bitmap is one that the font shows as its parts.
        if font.getlength(picture.emoji) > _BITMAP:
            continue
        ImageDraw.Draw(canvas).text((0, 4), picture.emoji, font=font, embedded_color=True)
        if canvas.getbbox() is not None:
            small = canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            rendered[picture.id] = np.asarray(small)
    return rendered


def on_white(rgba: NDArray[np.uint8], size: int) -> Image.Image:
    """Returns a rendered picture on white.

    Args:
        rgba: (128, 128, 4) uint8.
        size: Side of the result in pixels.
    """
    picture = Image.fromarray(rgba)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return white.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
