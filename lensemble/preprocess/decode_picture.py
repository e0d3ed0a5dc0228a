"""Decodes encoded pictures (JPEG, PNG, ...) to 8-bit RGB; all limits are checked before decoding.

As in the reference (qwen-vl-utils `fetch_image`), EXIF orientation is ignored: the pixels are used
as they are stored. The other embedders rotate them with `apply_exif_orientation`.

Two things differ from the reference. Transparency is composited on white in every 8-bit format,
not only in RGBA; in 16-bit grey pictures it is ignored. And 16-bit grey pictures are scaled to 8
bits, where the reference clips them to white.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

from lensemble_contract import contract
from lensemble_contract.data_urls import decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# 32-bit integers and floats: there is no fixed value that means white.
_MODES_WITHOUT_WHITE = ("I", "F")
# Values of EXIF tag 274, Orientation (EXIF 2.32) -> what makes the picture upright. A value says
# on which side of the upright picture the first stored row lies, and on which side the first stored
# column lies. 1 means that the stored picture is upright already.
_ORIENTATION_TO_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(data: bytes, field: str = "image") -> Image.Image:
    """Reads the header of a picture and checks the limits; no pixel is decoded yet.

    Args:
        data: an encoded picture, or such a file as a base64 data URL.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: The picture has too many bytes or pixels, is too thin, or is not in one
            of `FORMATS`.
    """
    if is_data_url(data):
        data = decode_data_url(data, field)
    if len(data) > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{len(data)} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=field,
            reason="too_large",
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns above a limit of its own, which is looser than ours below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidInputError(
            f"more than {contract.MAX_IMAGE_PIXELS} pixels; send a smaller picture",
            field=field,
            reason="too_many_pixels",
        ) from error
    except Exception as error:  # Pillow's parsers raise exceptions of many classes
        raise InvalidInputError(
            f"not a picture that can be read ({len(data)} bytes starting with {data[:8]!r}); "
            f"expected {', '.join(FORMATS)}",
            field=field,
            reason="not_a_picture",
        ) from error
    width, height = picture.size
    if width * height > contract.MAX_IMAGE_PIXELS:
        raise InvalidInputError(
            f"{width}x{height} is {width * height} pixels; at most {contract.MAX_IMAGE_PIXELS}; "
            "send a smaller picture",
            field=field,
            reason="too_many_pixels",
        )
    if max(width, height) > contract.MAX_ASPECT_RATIO * min(width, height):
        raise InvalidInputError(
            f"{width}x{height} is too thin: one side may be at most "
            f"{contract.MAX_ASPECT_RATIO} times the other; crop it",
            field=field,
            reason="too_thin",
        )
    return picture


def decode_rgb(picture: Image.Image, field: str = "image") -> Image.Image:
    """Decodes the first frame or page to 8-bit RGB.

    Transparent parts of 8-bit pictures become white.

    Args:
        picture: a picture from `open_picture`.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: The file is damaged, or its pixel format has no fixed white.
    """
    try:
        picture.load()
        if picture.mode in _SIXTEEN_BIT_MODES:
            # Pillow's own conversion would clip every value over 255 to white.
            grey = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if picture.mode in _MODES_WITHOUT_WHITE:
            raise InvalidInputError(
                f"pixels are 32-bit (mode {picture.mode!r}) and have no defined white; "
                "convert the picture to 8 or 16 bits",
                field=field,
                reason="mode",
            )
        if picture.has_transparency_data:
            rgba = picture.convert("RGBA")
            white = Image.new("RGB", rgba.size, (255, 255, 255))
            white.paste(rgba, mask=rgba.getchannel("A"))
            return white
        return picture.convert("RGB")
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of many classes
        raise InvalidInputError(
            f"a damaged {picture.format} file: {error}", field=field, reason="damaged"
        ) from error


def apply_exif_orientation(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """Rotates or mirrors pixels as the EXIF orientation of their file says.

    This is only for models whose reference applies the orientation; Qwen3-VL-Embedding's does not.

    Args:
        picture: the picture from `open_picture`, which holds the EXIF data.
        rgb: its pixels as they are stored, from `decode_rgb`.
    """
    try:
        transpose = _ORIENTATION_TO_TRANSPOSE.get(
            picture.getexif().get(ExifTags.Base.Orientation, 1)
        )
    except Exception:  # damaged EXIF data does not make the pixels unusable
        transpose = None
    return rgb if transpose is None else rgb.transpose(transpose)
