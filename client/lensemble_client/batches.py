"""Which items share a request, and what happens when a request fails because of one item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias, TypeVar

from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError, NotReadyError, ReadOnlyError
from lensemble_contract.items import Item

# Texts in one request. With one request for each text, sending costs more than embedding.
TEXTS_PER_REQUEST = 32
# Approximate limit for the UTF-8 bytes of all texts in one request, because every row is padded to
# the longest.
TEXT_BYTES_PER_REQUEST = 1024 * 1024
# Items that may come between the first and the last text of a request. Results are released in
# order, so those that come after a text wait until its request is full.
MAX_SPAN = 1024

T = TypeVar("T")
# Items with their positions in the caller's input, counted from 0.
NumberedItems: TypeAlias = list[tuple[int, Item]]


def batches(items: Iterable[Item], texts: int = TEXTS_PER_REQUEST) -> Iterator[NumberedItems]:
    """Groups items into requests, in the order in which they come.

    Texts share requests. An item with pictures has a request of its own: otherwise its rows would
    be padded to the largest picture of the request. The server batches such requests without
    padding.

    Args:
        items: Any number of items; read while batches are taken.
        texts: Largest number of texts in one request; limited to 1 to `contract.MAX_BATCH_SIZE`.

    Yields:
        Items with their positions; every item occurs once.
    """
    texts = min(max(1, texts), contract.MAX_BATCH_SIZE)
    waiting: NumberedItems = []
    size = 0
    for position, item in enumerate(items):
        if waiting and position - waiting[0][0] >= MAX_SPAN:
            yield waiting
            waiting, size = [], 0
        if item.images:
            yield [(position, item)]
            continue
        length = len(item.text or "") + len(item.instruction or "")
        if waiting and (len(waiting) >= texts or size + length > TEXT_BYTES_PER_REQUEST):
            yield waiting
            waiting, size = [], 0
        waiting.append((position, item))
        size += length
    if waiting:
        yield waiting


def is_worth_splitting(error: LensembleError, batch: NumberedItems) -> bool:
    """Whether to send the items of a failed request one by one, because only some may be invalid.

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
