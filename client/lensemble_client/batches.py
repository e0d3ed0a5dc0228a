"""Many items in few requests: which go together, and what to do when one of them is bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError, NotReadyError, ReadOnlyError
from lensemble_contract.items import Item

TEXTS = 32
"""Texts in one request. One request per text costs more for its journey than for its work."""
TEXT_BYTES = 1024 * 1024
"""UTF-8 bytes of the texts in one request, about: all rows are filled up to the longest."""
APART = 1024
"""Items that may stand between the first text of a request and the last: the results that come
after a text wait for it, where they are wanted in order."""

T = TypeVar("T")
Numbered = list[tuple[int, Item]]
"""Items with their places."""


def batches(items: Iterable[Item], texts: int = TEXTS) -> Iterator[Numbered]:
    """Sorts items into requests as they come.

    Texts go together. An item with pictures goes alone: its rows would be filled up to the largest
    picture of the request, and the server joins requests anyway, without that.

    Args:
        items: Any number; read as batches are taken.
        texts: At most so many in a request; as many as one holds, if that is less, and at least 1.

    Returns:
        Items with their places; every item once.
    """
    texts = min(max(1, texts), contract.MAX_BATCH_SIZE)
    waiting: Numbered = []
    size = 0
    for number, item in enumerate(items):
        if waiting and number - waiting[0][0] >= APART:
            yield waiting
            waiting, size = [], 0
        if item.images:
            yield [(number, item)]
            continue
        length = len(item.text or "") + len(item.instruction or "")
        if waiting and (len(waiting) >= texts or size + length > TEXT_BYTES):
            yield waiting
            waiting, size = [], 0
        waiting.append((number, item))
        size += length
    if waiting:
        yield waiting


def one_by_one(error: LensembleError, batch: Numbered) -> bool:
    """Whether a failed request is to be tried again item by item: only some of it may be at fault.

    Args:
        error: Of the request.
        batch: What was in it.
    """
    return len(batch) > 1 and not isinstance(error, NotReadyError | ReadOnlyError)


def one_each(results: list[T], batch: Numbered) -> list[T]:
    """The results, if there is one for each item.

    Raises:
        InternalError: There is not.
    """
    if len(results) != len(batch):
        raise InternalError(f"the server gave {len(results)} results for {len(batch)} items")
    return results


def in_order(found: dict[int, T]) -> list[T]:
    """Results by place, in the order of the places."""
    return [found[number] for number in range(len(found))]
