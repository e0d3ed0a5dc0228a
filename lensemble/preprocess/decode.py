"""Encoded pictures -> patch rows, as the official embedder sees them, eight times smaller.

The reference (qwen-vl-utils `fetch_image`, then `Qwen2VLImageProcessor` without resizing) makes
float32 rows in which every still frame stands twice. Here a row is the 768 uint8 values of one
16x16 patch; scaling, the second frame and the patch embedding are one Linear in the encoder.

As in the reference, EXIF orientation is ignored: the pixels are taken as they are stored. Unlike
it, transparency of any kind lies on white, not only RGBA, and 16-bit grey keeps its range. The
other embedders read the same files under the same limits, and turn them upright.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lensemble.profile import ImageProfile
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_WITHOUT_RANGE = ("I", "F")  # 32-bit whole numbers and floats: white could be any value
_DATA_URL = b"data:"
# EXIF 2.32, tag 274: where row 0 and column 0 of the stored pixels lie.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    data: bytes, profile: ImageProfile, field: str = "image", *, scaled: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Decodes, resizes and cuts one picture.

    Args:
        data: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF (first page), or such a file as a
            base64 data URL.
        profile: Pixel limits and patch size.
        field: What to call the picture in an error.
        scaled: Decode a JPEG that is reduced to a half or less at 1/2, 1/4 or 1/8 of its size, as
            its blocks allow; the rest is resized. Much less work, and not quite the same pixels.

    Returns:
        Patch rows (P, 768) uint8, ordered as the model reads them (2x2 patches of a token next to
        each other), and the grid (1, patches down, patches across).

    Raises:
        InvalidInputError: Too many bytes or pixels, too thin, no picture, or a damaged one.
    """
    picture = open_image(data, field)
    height, width = smart_resize(picture.height, picture.width, profile)
    if scaled:
        picture.draft(None, (width, height))  # never below this size, and for JPEG alone
    return patch_rows(resize(to_rgb(picture, field), height, width), profile)


def open_image(data: bytes, field: str = "image") -> Image.Image:
    """Reads a picture's header and checks the limits; no pixel is decoded yet.

    Raises:
        InvalidInputError: Too many bytes or pixels, too thin, or not a picture that is served.
    """
    # base64 has four characters for three bytes; refuse before decoding them.
    is_url = data[: len(_DATA_URL)].lower() == _DATA_URL
    size = len(data) * 3 // 4 if is_url else len(data)
    if size > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{size} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=field,
            reason="too_large",
        )
    if is_url:
        data = _from_data_url(data, field)
    try:
        with warnings.catch_warnings():
            # Pillow's own, looser limit: ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidInputError(
            f"more than {contract.MAX_IMAGE_PIXELS} pixels; send a smaller picture",
            field=field,
            reason="too_many_pixels",
        ) from error
    except Exception as error:  # Pillow's parsers raise whatever they meet
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


def _from_data_url(url: bytes, field: str) -> bytes:
    head, comma, body = url.partition(b",")
    try:
        if not comma or not head.lower().endswith(b";base64"):
            raise ValueError("no ';base64,'")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(
            f"a data URL that cannot be read ({error}); expected data:image/jpeg;base64,...",
            field=field,
            reason="data_url",
        ) from error


def to_rgb(picture: Image.Image, field: str = "image") -> Image.Image:
    """Decodes the first frame to 8-bit RGB; transparency lies on white.

    Raises:
        InvalidInputError: The file is damaged, or its pixels have no defined white.
    """
    try:
        picture.load()
        if picture.mode in _SIXTEEN_BIT:
            # Pillow's own conversion would clip every value over 255 to white.
            grey = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if picture.mode in _WITHOUT_RANGE:
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
    except Exception as error:  # Pillow's parsers raise whatever they meet
        raise InvalidInputError(
            f"a damaged {picture.format} file: {error}", field=field, reason="damaged"
        ) from error


def upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turns pixels as the picture's EXIF orientation says, for models whose reference does.

    Args:
        picture: As opened, with what its file says of it.
        rgb: Its pixels as they are stored.
    """
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged note about the pixels does not damage the pixels
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def smart_resize(height: int, width: int, profile: ImageProfile) -> tuple[int, int]:
    """The size at which the model sees a picture: multiples of 32, within the pixel limits.

    The rule is the reference's (qwen-vl-utils `smart_resize`). It differs in one corner: a very
    thin picture that is reduced keeps at least one multiple per side, where the reference gets 0
    and fails.

    Args:
        height: Pixels.
        width: Pixels.
        profile: Pixel limits and patch size.

    Returns:
        Height and width in pixels.
    """
    factor = profile.factor
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > profile.max_pixels:
        beta = math.sqrt(height * width / profile.max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < profile.min_pixels:
        beta = math.sqrt(profile.min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def resize(rgb: Image.Image, height: int, width: int) -> torch.Tensor:
    """Bicubic with antialiasing, as Pillow's `resize`, four times as fast.

    Across first, then down, as Pillow to version 12 and torchvision; from those it differs by at
    most two levels of 255. `tests/parity` bounds that, and what it does to vectors.

    Returns:
        (3, height, width) uint8.
    """
    import torch  # seconds, and who only reads pictures needs none of it

    pixels: NDArray[Any] = np.array(rgb)  # a copy: Pillow's memory is read-only
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)  # channels last in memory, as it should be
    if tensor.shape[1:] == (height, width):
        return tensor
    resized = torch.nn.functional.interpolate(
        tensor[None], size=(height, width), mode="bicubic", antialias=True
    )
    return resized[0]


def patch_rows(
    pixels: torch.Tensor, profile: ImageProfile
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Cuts a resized picture into patch rows.

    Args:
        pixels: (3, H, W) uint8, H and W multiples of `profile.factor`.
        profile: Patch and merge size.

    Returns:
        Patch rows (P, 768) uint8 and the grid (1, patches down, patches across).
    """
    side, merge = profile.patch_size, profile.merge_size
    down, across = pixels.shape[1] // side, pixels.shape[2] // side
    blocks = pixels.reshape(3, down // merge, merge, side, across // merge, merge, side)
    #          token row, token column, patch row, patch column, channel, pixel row, pixel column
    rows = blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(down * across, 3 * side * side)
    return rows.contiguous().numpy(), (1, down, across)
