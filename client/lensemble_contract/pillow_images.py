"""Encodes Pillow images so that the server sees exactly their pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from lensemble_contract.errors import InvalidInputError

# Modes that a PNG stores without a change. In the other modes, white is something else.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_SIXTEEN_BIT_MODES = ("I;16L", "I;16B", "I;16N")
# Modes with transparency, which `convert("RGB")` would drop.
_TRANSPARENT_MODES = ("La", "PA", "RGBa")
_COLOUR_MODES = ("RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def encode_image(image: Image.Image, field: str) -> bytes:
    """Encodes an image as PNG, which is lossless, without its colour profile and other metadata.

    Args:
        image: An image of any mode.
        field: Name of the picture in error messages.

    Raises:
        InvalidInputError: The mode has no fixed value for white (32-bit integers and floats) or no
            defined colours here, or the image's file is damaged.
    """
    try:
        with_png_mode = _to_png_mode(image)
        if with_png_mode is None:
            raise InvalidInputError(
                f"a Pillow image of mode {image.mode!r}, in which white is not defined; convert it "
                "to 'L', 'I;16' or 'RGB' by a scale of your choice",
                field=field,
                reason="mode",
            )
        buffer = io.BytesIO()
        with_png_mode.save(buffer, "PNG", icc_profile=None)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(
            f"a Pillow image that cannot be read: {error}", field=field, reason="damaged"
        ) from error
    return buffer.getvalue()


def _to_png_mode(image: Image.Image) -> Image.Image | None:
    """The image in a mode of PNG; None if its values do not say which is white."""
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        return None  # opened from a file of 16 bits a channel: the colour cannot be found any more
    if image.mode in _PNG_MODES:
        return image
    if image.mode in _SIXTEEN_BIT_MODES:
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in _TRANSPARENT_MODES:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in _COLOUR_MODES else None
