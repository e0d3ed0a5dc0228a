"""Pictures as callers give them -> encoded bytes, or an error that names what was given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lensemble_contract.data_urls import decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.pillow_images import encode_image
from lensemble_contract.texts import quoted

# Encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF), an open file with them, a path to such a file, a
# data URL, a Pillow image, or the pixels of one: (H, W), (H, W, 3) or (H, W, 4), uint8.
Picture: TypeAlias = (
    bytes
    | bytearray
    | memoryview
    | BinaryIO
    | str
    | os.PathLike[str]
    | Image.Image
    | NDArray[np.uint8]
)

# Characters of a path in a message. A longer one is no path, but perhaps a text or a picture.
_PATH_CHARACTERS = 300
_EXPECTED = "encoded bytes, a path, an open file, a Pillow image, or an array of uint8"


def encoded_pictures(image: Picture | Sequence[Picture] | Iterator[Picture] | None) -> list[bytes]:
    """Returns the pictures of an item as encoded bytes.

    Args:
        image: One picture, or a list, tuple or generator of them; None if there is none.

    Raises:
        InvalidInputError: A picture cannot be read, the list is empty, or it is something else.
    """
    if image is None:
        return []
    if _is_picture(image):
        return [_encoded(image, "image[0]")]
    if not isinstance(image, Sequence | Iterator):
        raise InvalidInputError(
            f"it is of type {type(image).__name__}; expected {_EXPECTED}, or a list of these",
            field="image",
        )
    pictures = [_encoded(picture, f"image[{n}]") for n, picture in enumerate(image)]
    if not pictures:
        raise InvalidInputError(
            "it has no picture; expected at least one, or None for an item without pictures",
            field="image",
        )
    return pictures


def _is_picture(value: object) -> TypeGuard[Picture]:
    return isinstance(
        value, bytes | bytearray | memoryview | str | os.PathLike | Image.Image | np.ndarray
    ) or hasattr(value, "read")


def _encoded(picture: Any, field: str) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        picture = _image_of(picture, field)
    if isinstance(picture, Image.Image):
        return encode_image(picture, field)
    if isinstance(picture, str | os.PathLike):
        return _read_file(os.fspath(picture), field)
    if hasattr(picture, "read"):
        content = picture.read()
        if isinstance(content, bytes):
            return content
        raise InvalidInputError(
            f"the file gave {type(content).__name__}; expected bytes: open it with mode 'rb'",
            field=field,
        )
    raise InvalidInputError(
        f"it is of type {type(picture).__name__}; expected {_EXPECTED}", field=field
    )


def _image_of(pixels: NDArray[Any], field: str) -> Image.Image:
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not has_shape:
        raise InvalidInputError(
            f"an array of {pixels.dtype} and shape {pixels.shape}; expected uint8 of shape (H, W), "
            "(H, W, 3) or (H, W, 4), with colours in the order red, green, blue",
            field=field,
        )
    if not pixels.size:
        raise InvalidInputError(f"an array of shape {pixels.shape} has no pixels", field=field)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _read_file(path: str | bytes, field: str) -> bytes:
    if isinstance(path, str) and is_data_url(path):
        return decode_data_url(path, field)
    if isinstance(path, str) and path.lower().startswith(("http://", "https://")):
        raise InvalidInputError(
            f"{quoted(path, _PATH_CHARACTERS)} is a URL; expected {_EXPECTED}: download it first",
            field=field,
        )
    try:
        return Path(os.fsdecode(path)).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(
            f"cannot read {quoted(os.fsdecode(path), _PATH_CHARACTERS)}: {reason}", field=field
        ) from error
