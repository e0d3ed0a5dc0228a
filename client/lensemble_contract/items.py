"""Items, and their conversion to tensors and back.

The client writes tensors with `to_rows`; the first model of each embedder (`preprocess`,
`clip_preprocess`, `hybrid_preprocess`) reads them with `from_rows`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.pillow_images import encode_image

# Encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF), a path to such a file, or a Pillow image.
Picture: TypeAlias = bytes | str | os.PathLike[str] | Image.Image

# Tensor name -> array with leading batch dimension B.
Rows: TypeAlias = dict[str, np.ndarray[Any, Any]]

_NUMPY_DTYPES = {"INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "FP32": np.float32}
_EMPTY_ITEM = "the item is empty; send `text`, `image`, or both"


@dataclass(frozen=True, slots=True)
class Item:
    """The content that becomes one vector: a text, pictures, or both.

    Attributes:
        text: Text of the item; None or empty if there is none.
        images: Encoded pictures, in the order in which the model reads them.
        instruction: Replaces the profile's instruction; None or empty keeps it.
    """

    text: str | None = None
    images: tuple[bytes, ...] = ()
    instruction: str | None = None

    @classmethod
    def of(
        cls,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        instruction: str | None = None,
    ) -> Item:
        """Makes an item. Pictures may be encoded bytes, paths or Pillow images.

        Args:
            text: Text of the item.
            image: One picture or several.
            instruction: Replaces the profile's instruction.

        Raises:
            InvalidInputError: There is neither text nor picture, or a picture cannot be read.
        """
        if image is None:
            pictures: Sequence[Picture] = ()
        elif isinstance(image, bytes | str | os.PathLike | Image.Image):
            pictures = (image,)
        else:
            pictures = image
        images = tuple(
            _encode_picture(picture, f"image[{n}]") for n, picture in enumerate(pictures)
        )
        item = cls(text, images, instruction)
        _check_not_empty(item)
        return item


@dataclass(frozen=True, slots=True)
class Record:
    """An item with an id and a document, to be stored.

    Attributes:
        id: The caller's name for the item, 1 to 512 bytes of UTF-8.
        item: The content that is embedded.
        document: JSON object that comes with hits and that filters read.
    """

    id: str
    item: Item
    document: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Returns the SHA-256 of the item and its document.

        The store keeps it, so that a caller can tell whether the stored item is the same.
        """
        item = self.item
        parts = [
            json.dumps(self.document, sort_keys=True).encode(),
            _encode_text(item.text),
            _encode_text(item.instruction),
            *item.images,
        ]
        digest = hashlib.sha256()
        # Lengths are included, so that different lists of parts never give the same bytes.
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()


def _check_not_empty(item: Item) -> None:
    """Refuses empty items and empty pictures, because empty bytes mean padding on the wire."""
    if not item.text and not item.images:
        raise InvalidInputError("the item is empty; give a text, a picture, or both")
    for n, image in enumerate(item.images):
        if not image:
            raise InvalidInputError("0 bytes; expected a picture", field=f"image[{n}]")


def _encode_text(text: str | None) -> bytes:
    """Encodes a text as UTF-8. A lone surrogate is kept, so that the server refuses the text."""
    return (text or "").encode("utf-8", "surrogatepass")


def _encode_picture(picture: Picture, field: str) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Image.Image):
        return encode_image(picture, field)
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {os.fspath(picture)!r}: {error.strerror}", field=field
        ) from error


def to_rows(items: Sequence[Item]) -> Rows:
    """Converts items to the inputs of one request.

    An input that no item uses is left out. If only some items use it, the rows of the others are
    padded with empty bytes.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.

    Returns:
        `text` and `instruction` (B, 1), `image` (B, n), object arrays of bytes.

    Raises:
        InvalidInputError: An item is empty, or one of its pictures is.
    """
    for item in items:
        _check_not_empty(item)
    rows: Rows = {}
    for name, texts in (
        (contract.TEXT.name, [item.text for item in items]),
        (contract.INSTRUCTION.name, [item.instruction for item in items]),
    ):
        if any(texts):
            encoded = [[_encode_text(text)] for text in texts]
            rows[name] = np.array(encoded, dtype=np.object_)
    most = max(len(item.images) for item in items)
    if most:
        images = np.full((len(items), most), b"", dtype=np.object_)
        for row, item in enumerate(items):
            images[row, : len(item.images)] = item.images
        rows[contract.IMAGE.name] = images
    return rows


def blank_rows(tensors: Sequence[contract.Tensor]) -> Rows:
    """Returns one row of zeros and empty strings for each tensor.

    Args:
        tensors: Inputs or outputs of a model; axes of any length get length 0.
    """
    rows: Rows = {}
    for tensor in tensors:
        shape = (1, *(max(0, length) for length in tensor.dims))
        if tensor.dtype == "STRING":
            rows[tensor.name] = np.full(shape, b"", np.object_)
        else:
            rows[tensor.name] = np.zeros(shape, _NUMPY_DTYPES[tensor.dtype])
    return rows


def from_rows(rows: Mapping[str, np.ndarray[Any, Any] | None]) -> list[Item | LensembleError]:
    """Converts the inputs of one request to items.

    Args:
        rows: Inputs of the request, as `to_rows` makes them. An input that was not sent is missing
            or None.

    Returns:
        For each of the B rows its item, or an error if the row is not valid.
    """
    arrays = {name: array for name, array in rows.items() if array is not None}
    if not arrays:
        return [InvalidInputError(_EMPTY_ITEM)]
    count = len(next(iter(arrays.values())))
    return [
        _decode_item({name: array[row] for name, array in arrays.items()}) for row in range(count)
    ]


def _decode_item(row: Mapping[str, np.ndarray[Any, Any]]) -> Item | LensembleError:
    try:
        text = _decode_text(row, contract.TEXT.name)
        instruction = _decode_text(row, contract.INSTRUCTION.name)
        images = tuple(bytes(image) for image in row.get(contract.IMAGE.name, ()) if len(image))
        if len(images) > contract.MAX_IMAGES_PER_ITEM:
            raise InvalidInputError(
                f"{len(images)} pictures in one item; at most {contract.MAX_IMAGES_PER_ITEM}",
                field="image",
            )
        if text is None and not images:
            raise InvalidInputError(_EMPTY_ITEM)
    except LensembleError as error:
        return error
    return Item(text, images, instruction)


def _decode_text(row: Mapping[str, np.ndarray[Any, Any]], name: str) -> str | None:
    if name not in row:
        return None
    encoded = bytes(row[name][0])
    if len(encoded) > contract.MAX_TEXT_BYTES:
        raise InvalidInputError(
            f"{len(encoded)} bytes of text; at most {contract.MAX_TEXT_BYTES}", field=name
        )
    try:
        return encoded.decode() or None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not valid UTF-8 at byte {error.start}", field=name) from error
