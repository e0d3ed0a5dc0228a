"""Items for which the served vectors must equal the reference's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.common.photos import read_photo
from benchmarks.faults.pictures.tiff import tiff
from lensemble_client import Item
from tests.pictures import encode, textured

LONG = "El parachoques delantero está roto; the left headlight is cracked. " * 40

CASES: dict[str, Item] = {
    "text": Item("a broken headlight"),
    "text_spanish": Item("¿qué coche tiene el parachoques abollado?"),
    "text_one_letter": Item("a"),
    "text_long": Item(LONG),
    "text_decomposed": Item("cafe\u0301 \u1e9b\u0323 🚗\u200d👩 日本\r\n\t  end  "),
    "text_only_spaces": Item("   "),
    "text_with_instruction": Item("red car", instruction="Find pictures of this vehicle"),
    "text_with_blank_instruction": Item("red car", instruction="  \u3000\n"),
    "picture_landscape": Item(images=(read_photo("china.jpg"),)),
    "picture_portrait": Item(images=(encode(textured(300, 700)),)),
    "picture_photo_png": Item(images=(read_photo("chelsea.png"),)),
    "picture_grey": Item(images=(read_photo("page.png"),)),
    "picture_palette": Item(images=(encode(textured(200, 150).quantize(64)),)),
    "picture_transparent": Item(
        images=(
            encode(
                Image.merge(
                    "RGBA", [*textured(160, 120).split(), textured(160, 120, 1).getchannel(0)]
                )
            ),
        )
    ),
    "picture_cmyk": Item(images=(encode(textured(160, 120).convert("CMYK"), "JPEG"),)),
    "picture_webp": Item(images=(encode(textured(160, 120), "WEBP"),)),
    "picture_rotated_by_exif": Item(
        images=(
            encode(
                textured(160, 96),
                "JPEG",
                exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
            ),
        )
    ),
    # Pillow turns a TIFF while it decodes it, and so does the reference.
    "picture_rotated_by_tiff": Item(
        images=(tiff(np.asarray(textured(160, 96)), 8, 2, tags={274: (3, [6])}),)
    ),
    "picture_one_pixel": Item(images=(encode(textured(1, 1)),)),
    "picture_tiny": Item(images=(encode(textured(20, 13)),)),
    "picture_thin": Item(images=(encode(textured(1200, 20)),)),
    "picture_exact_multiple": Item(images=(encode(textured(256, 192)),)),
    "picture_huge": Item(images=(encode(textured(2600, 1900), "JPEG"),)),
    "both": Item("what is this?", (read_photo("coffee.png"),)),
    "both_with_instruction": Item("tissue", (read_photo("ihc.png"),), "Find the same tissue!"),
    "several_pictures": Item(
        None,
        (encode(textured(100, 220)), encode(textured(220, 100)), encode(textured(64, 64))),
    ),
    "several_pictures_and_text": Item(
        "before and after", (encode(textured(300, 200, 1)), encode(textured(300, 200, 2)))
    ),
}


def mixed_batch() -> list[Item]:
    """32 items of all kinds, in mixed order."""
    small = [item for name, item in CASES.items() if name not in ("picture_huge", "text_long")]
    texts = [Item("word " * n) for n in (1, 3, 9, 27, 50, 90, 120, 150, 200)]
    return (small + texts)[:32][::3] + (small + texts)[:32][1::3] + (small + texts)[:32][2::3]
