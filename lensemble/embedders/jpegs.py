"""Pictures as a chat model is shown them."""

from __future__ import annotations

import io

from PIL import Image

from lensemble.embedders import model_files
from lensemble.embedders.chat import Shown
from lensemble.preprocess.decode_picture import apply_exif_orientation, decode_rgb, open_picture
from lensemble_contract import contract
from lensemble_contract.items import Item

LONGEST_SIDE = 1536
"""Pixels. A larger picture is reduced: chat models see no more, and bytes on the way cost time."""
QUALITY = 90
"""Of the JPEG; 75 is Pillow's own."""


def show(item: Item) -> Shown:
    """Makes JPEG files of an item's pictures: upright, RGB, without what else the file says.

    Where a picture was taken, and with what, is not the chat server's business.

    Raises:
        InvalidInputError: A picture cannot be read or is over a limit, or there is an instruction.
    """
    model_files.refuse_instruction(item.instruction, contract.HYBRID)
    jpegs = [_jpeg(image, f"{contract.IMAGE.name}[{n}]") for n, image in enumerate(item.images)]
    return item.text or "", tuple(jpegs)


def _jpeg(image: bytes, field: str) -> bytes:
    picture = open_picture(image, field)
    rgb = apply_exif_orientation(picture, decode_rgb(picture, field))
    rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
