"""Items, and their conversion to tensors and back.

The client writes tensors with `to_rows`; the first model of each embedder (`preprocess`,
`clip_preprocess`, `hybrid_preprocess`) reads them with `from_rows`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from lensemble_contract import contract
from lensemble_contract.data_urls import check_no_data_url
from lensemble_contract.documents import document_text
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.index_checks import check_id
from lensemble_contract.pictures import Picture, encoded_pictures
from lensemble_contract.texts import quoted

__all__ = [
    "Item",
    "Picture",
    "Record",
    "Rows",
    "blank_rows",
    "decoded_text",
    "from_rows",
    "to_rows",
]

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
        image: Picture | Sequence[Picture] | Iterator[Picture] | None = None,
        instruction: str | None = None,
    ) -> Item:
        """Makes an item. `pictures.Picture` lists the forms in which a picture may be given.

        Args:
            text: Text of the item.
            image: One picture, or a list, tuple or generator of them.
            instruction: Replaces the profile's instruction.

        Raises:
            InvalidInputError: There is neither text nor picture, a list of pictures is empty, a
                picture cannot be read, or an argument is of another type.
        """
        item = cls(text, tuple(encoded_pictures(image)), instruction)
        _check_item(item)
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

    def check(self) -> None:
        """Checks id and document.

        Raises:
            InvalidInputError: One of them is not valid.
        """
        check_id(self.id)
        document_text(self.document)

    def digest(self) -> str:
        """Returns the SHA-256 of the item and its document.

        The store keeps it, so that a caller can tell whether the stored item is the same.
        """
        item = self.item
        parts = [
            json.dumps(dict(self.document), sort_keys=True).encode(),
            _encode_text(item.text),
            _encode_text(item.instruction),
            *item.images,
        ]
        digest = hashlib.sha256()
        # Lengths are included, so that different lists of parts never give the same bytes.
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()


def _check_item(item: Item) -> None:
    """Refuses items with wrong types, and empty ones: empty bytes mean padding on the wire."""
    for name, text in ((contract.TEXT.name, item.text), ("instruction", item.instruction)):
        if not isinstance(text, str | None):
            raise InvalidInputError(f"{quoted(text)}; expected a string", field=name)
    if not isinstance(item.images, tuple | list):
        raise InvalidInputError(
            f"it is of type {type(item.images).__name__}; expected a tuple of encoded pictures",
            field=contract.IMAGE.name,
        )
    check_no_data_url(item.text or "", contract.TEXT.name)
    if not item.text and not item.images:
        raise InvalidInputError("the item is empty; give a text, a picture, or both")
    for n, image in enumerate(item.images):
        if not isinstance(image, bytes):
            raise InvalidInputError(
                f"it is of type {type(image).__name__}; expected encoded bytes, which Item.of "
                "makes of paths, Pillow images and arrays",
                field=f"image[{n}]",
            )
        if not image:
            raise InvalidInputError("0 bytes; expected a picture", field=f"image[{n}]")


def _encode_text(text: str | None) -> bytes:
    """Encodes a text as UTF-8. A lone surrogate is kept, so that the server refuses the text."""
    return (text or "").encode("utf-8", "surrogatepass")


def to_rows(items: Sequence[Item]) -> Rows:
    """Converts items to the inputs of one request.

    An input that no item uses is left out. If only some items use it, the rows of the others are
    padded with empty bytes.

    Args:
        items: 1 to `contract.MAX_BATCH_SIZE` items.

    Returns:
        `text` and `instruction` (B, 1), `image` (B, n), object arrays of bytes.

    Raises:
        InvalidInputError: An item is empty, one of its pictures is, or something has a wrong type.
    """
    for item in items:
        _check_item(item)
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
        check_no_data_url(text or "", contract.TEXT.name)
    except LensembleError as error:
        return error
    return Item(text, images, instruction)


def _decode_text(row: Mapping[str, np.ndarray[Any, Any]], name: str) -> str | None:
    return decoded_text(row[name][0], name) or None if name in row else None


def decoded_text(encoded: bytes, name: str) -> str:
    """Returns the text of an input.

    Args:
        encoded: The text in UTF-8.
        name: Name of the input.

    Raises:
        InvalidInputError: The text is too long, or not valid UTF-8.
    """
    encoded = bytes(encoded)
    if len(encoded) > contract.MAX_TEXT_BYTES:
        raise InvalidInputError(
            f"{len(encoded)} bytes of text; at most {contract.MAX_TEXT_BYTES}", field=name
        )
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not valid UTF-8 at byte {error.start}", field=name) from error
