"""Prepares items for a chat model: their text, and their pictures as JPEG files."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from lensemble.embedders.model_files import refuse_instruction
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.scheduling.slots import Slots
from lensemble_contract import contract
from lensemble_contract.items import Item

# Pixels. Pictures with a longer side are reduced, because chat models see no more of them, and
# sending more bytes takes longer.
LONGEST_SIDE = 1536
# Pillow's default is 75.
JPEG_QUALITY = 90


class ChatInput(NamedTuple):
    """What a chat model gets of an item.

    Attributes:
        text: the item's own text; empty if it has none.
        jpegs: its pictures as JPEG files.
    """

    text: str
    jpegs: tuple[bytes, ...]


def to_chat_input(item: Item, slots: Slots | None = None) -> ChatInput:
    """Makes upright RGB JPEG files of an item's pictures, without metadata.

    Metadata is dropped because the chat server does not need to know, for example, where a picture
    was taken.

    Args:
        item: the item.
        slots: limits how many large pictures are decoded at the same time.

    Raises:
        InvalidInputError: A picture cannot be read or exceeds a limit, or there is an instruction.
        OverloadedError: A picture is large, and no slot is free.
    """
    refuse_instruction(item.instruction, contract.HYBRID)
    jpegs = [
        _to_jpeg(image, f"{contract.IMAGE.name}[{n}]", slots) for n, image in enumerate(item.images)
    ]
    return ChatInput(item.text or "", tuple(jpegs))


def _to_jpeg(image: bytes, field: str, slots: Slots | None) -> bytes:
    picture = open_picture(image, field)
    rgb = decode_rgb(picture, field, upright=True, slots=slots)
    rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
