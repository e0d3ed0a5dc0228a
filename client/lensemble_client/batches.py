"""Which items share a request, and what happens when a request fails because of one item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias, TypeVar

from lensemble_contract import contract
from lensemble_contract.errors import (
    InternalError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    ReadOnlyError,
)
from lensemble_contract.items import Item

# Texts in one request. With one request for each text, sending costs more than embedding.
TEXTS_PER_REQUEST = 32
# Approximate limit for the UTF-8 bytes of all texts in one request, because every row is padded to
# the longest.
TEXT_BYTES_PER_REQUEST = 1024 * 1024
# Largest distance in the input between the first and the last text of a request. Results are
# returned in the order of the input, so the results of items after the first text wait until its
# request has been filled, sent and answered.
MAX_SPAN = 1024

T = TypeVar("T")
# Items with their positions in the caller's input, counted from 0.
NumberedItems: TypeAlias = list[tuple[int, Item]]


def batches(items: Iterable[Item], batch_size: int = TEXTS_PER_REQUEST) -> Iterator[NumberedItems]:
    """Groups items into requests, in the order in which they come.

    Texts share requests. An item with pictures has a request of its own: otherwise its rows would
    be padded to the largest picture of the request. The server batches such requests without
    padding.

    Args:
        items: Any number of items. They are read only as batches are requested.
        batch_size: Largest number of texts in one request. Numbers outside 1 to
            `contract.MAX_BATCH_SIZE` are replaced by the nearest number in that range.

    Yields:
        Items with their positions; every item occurs once.

    Raises:
        InvalidInputError: `items` is a single item, or contains something else.
    """
    if isinstance(items, Item):
        raise InvalidInputError("it is one Item; expected several, such as a list", field="items")
    batch_size = min(max(1, batch_size), contract.MAX_BATCH_SIZE)
    waiting: NumberedItems = []
    size = 0
    for position, item in enumerate(items):
        if not isinstance(item, Item):
            raise InvalidInputError(
                f"it is of type {type(item).__name__}; expected an Item, such as Item('a text')",
                field=f"items[{position}]",
            )
        if waiting and position - waiting[0][0] >= MAX_SPAN:
            yield waiting
            waiting, size = [], 0
        if item.images:
            yield [(position, item)]
            continue
        length = len(item.text or "") + len(item.instruction or "")
        if waiting and (len(waiting) >= batch_size or size + length > TEXT_BYTES_PER_REQUEST):
            yield waiting
            waiting, size = [], 0
        waiting.append((position, item))
        size += length
    if waiting:
        yield waiting


def is_worth_splitting(error: LensembleError, batch: NumberedItems) -> bool:
    """Whether to send the items of a failed request again, one by one.

    Only some of the items may be the cause of the error.

    Args:
        error: The error of the request.
        batch: The items of the request.
    """
    return len(batch) > 1 and not isinstance(error, NotReadyError | ReadOnlyError)


def check_count(results: list[T], batch: NumberedItems) -> list[T]:
    """Returns the results if there is one for each item.

    Raises:
        InternalError: There are more or fewer results than items.
    """
    if len(results) != len(batch):
        raise InternalError(f"the server gave {len(results)} results for {len(batch)} items")
    return results
