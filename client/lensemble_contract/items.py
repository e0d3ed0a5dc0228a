"""Items, and the rows of tensors that carry them: both directions, so that they cannot drift.

The client writes rows with `to_rows`, the `preprocess` model reads them with `from_rows`.
"""

from __future__ import annotations

import hashlib
import io
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

Picture: TypeAlias = bytes | str | os.PathLike[str] | Image.Image
"""Encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF), a path to such a file, or a Pillow image."""

_NUMBERS = {"INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "FP32": np.float32}

Rows: TypeAlias = dict[str, np.ndarray[Any, Any]]
"""Tensor name -> array with leading batch dimension B."""


@dataclass(frozen=True, slots=True)
class Item:
    """What one vector is made of: a text, pictures, or both.

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
        """Builds an item from whatever the caller has at hand.

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
        images = tuple(_encoded(picture, n) for n, picture in enumerate(pictures))
        item = cls(text, images, instruction)
        _check(item)
        return item


@dataclass(frozen=True, slots=True)
class Record:
    """An item that is to be stored.

    Attributes:
        id: The caller's own, 1 to 512 bytes of UTF-8.
        item: What its vector is made of.
        document: JSON object that hits carry, and that filters look at.
    """

    id: str
    item: Item
    document: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of the item and its document: whether it is what is stored already."""
        item = self.item
        parts = [
            json.dumps(self.document, sort_keys=True).encode(),
            (item.text or "").encode("utf-8", "surrogatepass"),
            (item.instruction or "").encode("utf-8", "surrogatepass"),
            *item.images,
        ]
        found = hashlib.sha256()
        for part in parts:  # lengths, so that no two lists of parts look alike
            found.update(len(part).to_bytes(8, "little") + part)
        return found.hexdigest()


def _check(item: Item) -> None:
    """Refuses what could not be told from filling on the wire."""
    if not item.text and not item.images:
        raise InvalidInputError("the item is empty; give a text, a picture, or both")
    for n, image in enumerate(item.images):
        if not image:
            raise InvalidInputError("0 bytes; expected a picture", field=f"image[{n}]")


def _encoded(picture: Picture, n: int) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        # Lossless: the vector is that of these very pixels. PNG has no CMYK and the like.
        in_png = picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")
        (picture if in_png else picture.convert("RGB")).save(buffer, "PNG")
        return buffer.getvalue()
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {os.fspath(picture)!r}: {error.strerror}", field=f"image[{n}]"
        ) from error


def to_rows(items: Sequence[Item]) -> Rows:
    """Lays items out as the inputs of one request.

    An input that no item uses is left out; where only some items use it, the others carry empty
    bytes there.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.

    Returns:
        `text` and `instruction` (B, 1), `image` (B, n), object arrays of bytes.

    Raises:
        InvalidInputError: An item is empty, or a picture of it is.
    """
    for item in items:
        _check(item)
    rows: Rows = {}
    for name, texts in (
        (contract.TEXT.name, [item.text for item in items]),
        (contract.INSTRUCTION.name, [item.instruction for item in items]),
    ):
        if any(texts):
            encoded = [[(text or "").encode("utf-8", "surrogatepass")] for text in texts]
            rows[name] = np.array(encoded, dtype=np.object_)
    most = max(len(item.images) for item in items)
    if most:
        images = np.full((len(items), most), b"", dtype=np.object_)
        for row, item in enumerate(items):
            images[row, : len(item.images)] = item.images
        rows[contract.IMAGE.name] = images
    return rows


def blank_rows(tensors: Sequence[contract.Tensor]) -> Rows:
    """One row of zeros and empty strings for each tensor; what may have any length has none.

    Args:
        tensors: Inputs or outputs of a model.
    """
    rows: Rows = {}
    for tensor in tensors:
        shape = (1, *(max(0, length) for length in tensor.dims))
        if tensor.dtype == "STRING":
            rows[tensor.name] = np.full(shape, b"", np.object_)
        else:
            rows[tensor.name] = np.zeros(shape, _NUMBERS[tensor.dtype])
    return rows


def from_rows(rows: Mapping[str, np.ndarray[Any, Any] | None]) -> list[Item | LensembleError]:
    """Reads the items back: one result per row, an error where a row is at fault.

    Args:
        rows: Inputs as `to_rows` lays them out; a missing or None input was not sent.

    Returns:
        B items or errors, in order.
    """
    sent = {name: array for name, array in rows.items() if array is not None}
    if not sent:
        return [InvalidInputError("the item is empty; send `text`, `image`, or both")]
    count = len(next(iter(sent.values())))
    return [_item({name: array[row] for name, array in sent.items()}) for row in range(count)]


def _item(row: Mapping[str, np.ndarray[Any, Any]]) -> Item | LensembleError:
    try:
        text = _text(row, contract.TEXT.name)
        instruction = _text(row, contract.INSTRUCTION.name)
        images = tuple(bytes(image) for image in row.get(contract.IMAGE.name, ()) if len(image))
        if len(images) > contract.MAX_IMAGES_PER_ITEM:
            raise InvalidInputError(
                f"{len(images)} pictures in one item; at most {contract.MAX_IMAGES_PER_ITEM}",
                field="image",
            )
        if text is None and not images:
            raise InvalidInputError("the item is empty; send `text`, `image`, or both")
    except LensembleError as error:
        return error
    return Item(text, images, instruction)


def _text(row: Mapping[str, np.ndarray[Any, Any]], name: str) -> str | None:
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
