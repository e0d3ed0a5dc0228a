"""Decodes encoded pictures (JPEG, PNG, ...) to 8-bit RGB.

What a file declares is checked before decoding (`picture_files/`). A picture of ordinary size is
decoded at once. One that may take longer is decoded in a child process, which is killed when it has
used its time (`limited_child.py`).

As in the reference (qwen-vl-utils `fetch_image` on Pillow), EXIF orientation is ignored, except in
TIFF files, whose pixels Pillow turns while it decodes them.

Two things differ from the reference. Transparency is composited on white in every format, not only
in RGBA. And grey of more than 8 bits is scaled to 8 bits, where the reference clips it to white.
"""

from __future__ import annotations

import io
import json
import mmap
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from lensemble.preprocess.limited_child import ChildFailedError, fill_in_child
from lensemble.preprocess.picture_files.picture_file import (
    MAX_PIXEL_SCANS,
    PictureFile,
    too_complex,
    unsupported,
)
from lensemble.preprocess.picture_files.read_picture_file import not_a_picture, read_picture_file
from lensemble.scheduling.slots import Slots
from lensemble_contract import contract
from lensemble_contract.data_urls import decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError

# Pixels times scans up to which a picture is decoded in this process. A child costs 10 ms or more.
_MAX_PIXEL_SCANS_HERE = 16_000_000
# Pixels, and pixels times scans, above which decoding takes so long that it needs a slot.
_LARGE_PIXELS = 32_000_000
_LARGE_PIXEL_SCANS = 320_000_000
# CPU time and memory of a child: twice what the largest pictures need that are accepted.
_CHILD_CPU_S = 6
_CHILD_MEMORY_BYTES = 2 * 1024**3
# A child's result is JSON of this length, padded with zeros, and the pixels.
_HEADER_BYTES = 4096

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Modes that `convert` turns into RGB without loss of meaning.
_CONVERTIBLE_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB")
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


@dataclass(frozen=True, slots=True)
class OpenedPicture:
    """A picture whose header was read and checked; its pixels are not decoded yet.

    Attributes:
        image: Pillow's image, not loaded.
        file: the checked file.
    """

    image: Image.Image
    file: PictureFile

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def draft(self, width: int, height: int) -> None:
        """Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, if that is at least this size."""
        self.image.draft(None, (width, height))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.image.width * self.image.height

    @property
    def pixel_scans(self) -> int:
        """Pixels times scans."""
        return self.pixels * self.file.scans

    @property
    def is_ordinary(self) -> bool:
        """Whether decoding takes so little that no limit is needed."""
        return self.file.is_bounded and self.pixel_scans <= _MAX_PIXEL_SCANS_HERE

    @property
    def is_large(self) -> bool:
        """Whether decoding may take more than about half a second."""
        is_large = self.pixels > _LARGE_PIXELS or self.pixel_scans > _LARGE_PIXEL_SCANS
        return is_large or not self.file.is_bounded


def open_picture(data: bytes, field: str = "image") -> OpenedPicture:
    """Reads the header of a picture and checks the limits; no pixel is decoded yet.

    Args:
        data: an encoded picture, or such a file as a base64 data URL.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: The picture has too many bytes or pixels, is too thin, would take too
            long to decode, is in none of `FORMATS`, or its colours cannot be decoded.
    """
    if is_data_url(data):
        data = decode_data_url(data, field)
    if len(data) > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{len(data)} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=field,
            reason="too_large",
        )
    file = read_picture_file(data, field)
    try:
        image = _open_image(file)
    except Image.DecompressionBombError as error:
        raise InvalidInputError(
            f"more than {contract.MAX_IMAGE_PIXELS} pixels; send a smaller picture",
            field=field,
            reason="too_many_pixels",
        ) from error
    except Exception as error:  # Pillow's parsers raise exceptions of many classes
        raise not_a_picture(data, field) from error
    picture = OpenedPicture(image, file)
    _check_size(picture, field)
    return picture


def _open_image(file: PictureFile) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns above a limit of its own, which is looser than ours.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Pillow's own decoder of uncompressed TIFF misreads planes of 16 bits and YCbCr.
        before, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            return Image.open(io.BytesIO(file.data), formats=(file.format,))
        finally:
            TiffImagePlugin.READ_LIBTIFF = before


def _check_size(picture: OpenedPicture, field: str) -> None:
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
    if picture.pixel_scans > MAX_PIXEL_SCANS:
        raise too_complex(
            f"{width}x{height} pixels in {picture.file.scans} scans are {picture.pixel_scans} "
            f"pixels to decode; at most {MAX_PIXEL_SCANS}",
            "save the picture anew, not progressive",
            field,
        )


def decode_rgb(
    picture: OpenedPicture,
    field: str = "image",
    *,
    upright: bool = False,
    slots: Slots | None = None,
) -> Image.Image:
    """Decodes the first frame or page to 8-bit RGB. Transparent parts become white.

    Args:
        picture: a picture from `open_picture`.
        field: name of the picture in error messages.
        upright: whether to rotate or mirror the picture as its EXIF orientation says. This is only
            for models whose reference does so; Qwen3-VL-Embedding's does not.
        slots: limits how many large pictures are decoded at the same time; None does not.

    Raises:
        InvalidInputError: The file is damaged, its colours cannot be decoded, or decoding took too
            much time or memory.
        OverloadedError: It is a large picture, and no slot is free.
    """
    if picture.is_ordinary:
        return _decode(picture, field, upright)
    if slots is None or not picture.is_large:
        return _decode_in_child(picture, field, upright)
    with slots.taken("large pictures"):
        return _decode_in_child(picture, field, upright)


def _decode_in_child(picture: OpenedPicture, field: str, upright: bool) -> Image.Image:
    """Decodes a picture in a child process, which is killed past its limits."""

    def fill(shared: mmap.mmap) -> None:
        try:
            rgb = _decode(picture, field, upright)
            result: dict[str, object] = {"size": rgb.size}
            shared[_HEADER_BYTES : _HEADER_BYTES + 3 * rgb.width * rgb.height] = rgb.tobytes()
        except InvalidInputError as error:
            result = {"error": error.message[:500], "reason": error.reason}
        header = json.dumps(result).encode()
        shared[: len(header)] = header

    width, height = picture.size
    try:
        shared = fill_in_child(
            fill,
            _HEADER_BYTES + 3 * width * height,
            cpu_s=_CHILD_CPU_S,
            memory_bytes=_CHILD_MEMORY_BYTES,
        )
    except ChildFailedError as error:
        if error.is_out_of_time:
            raise too_complex(
                f"decoding took more than {_CHILD_CPU_S} s", "save the picture anew", field
            ) from error
        raise _damaged(picture, "its decoder failed", field) from error
    header = json.loads(shared[:_HEADER_BYTES].rstrip(b"\0"))
    if "error" in header:
        raise InvalidInputError(header["error"], field=field, reason=header["reason"])
    width, height = header["size"]  # a picture that was turned has other sides
    pixels = np.frombuffer(shared, np.uint8, 3 * width * height, _HEADER_BYTES)
    return Image.fromarray(pixels.reshape(height, width, 3))


def _decode(picture: OpenedPicture, field: str, upright: bool) -> Image.Image:
    """Decodes a picture in this process."""
    try:
        picture.image.load()
        rgb = _to_rgb(picture, field)
    except InvalidInputError:
        raise
    except MemoryError as error:
        raise too_complex("decoding needs too much memory", "send a smaller picture", field) from (
            error
        )
    except Exception as error:  # Pillow's parsers raise exceptions of many classes
        raise _damaged(picture, str(error), field) from error
    transpose = _ORIENTATION_TO_TRANSPOSE.get(picture.file.orientation) if upright else None
    return rgb if transpose is None else rgb.transpose(transpose)


def _damaged(picture: OpenedPicture, why: str, field: str) -> InvalidInputError:
    return InvalidInputError(
        f"a damaged {picture.file.format} file: {why}", field=field, reason="damaged"
    )


def _to_rgb(picture: OpenedPicture, field: str) -> Image.Image:
    """Converts a decoded picture of any mode to RGB; transparent parts become white."""
    image = picture.image
    if image.mode in _SIXTEEN_BIT_MODES:
        return Image.fromarray(_to_eight_bits(picture)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if image.mode not in _CONVERTIBLE_MODES:
        raise unsupported(f"pixels of mode {image.mode!r}", field)
    return image.convert("RGB")


def _to_eight_bits(picture: OpenedPicture) -> NDArray[np.uint8]:
    """Scales grey samples of 12 or 16 bits; Pillow's own conversion would clip them to white."""
    samples = np.asarray(picture.image).astype(np.uint16)
    grey = (samples >> (picture.file.grey_bits - 8)).astype(np.uint8)
    if picture.file.is_inverted:
        np.invert(grey, out=grey)
    transparent = picture.image.info.get("transparency")
    if transparent is not None:
        grey[samples == transparent] = 255
    return grey
