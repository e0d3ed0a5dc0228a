"""Lists and counts the live items of a store, all of them or those that match a filter."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass

from lensemble.index.storage.filter import Filter
from lensemble.index.storage.schema import item_checksum
from lensemble.index.storage.store_file import StoreFile

# Items that one page looks at. A filter that few items match would otherwise read the whole store,
# and the writes of others would wait for it.
_MAX_SCANNED = 10_000
# Characters of documents that one page looks at, and that it contains, before it ends.
_MAX_SCANNED_CHARACTERS = 64 * 2**20
_MAX_CHARACTERS = 4 * 2**20


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One item of a page.

    Attributes:
        id: the caller's id.
        document: JSON text of an object.
        sequence: sequence number of the change that wrote it.
        digest: see `Upsert.digest`.
    """

    id: str
    document: str
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the items of a store, in the order of their ids.

    Attributes:
        items: the items.
        next: the id after which the next page begins; None if there are no more items.
    """

    items: list[ListedRow]
    next: str | None

    def to_json(self) -> str:
        """The page as JSON text, as `contract.LIST` describes it."""
        items = ", ".join(
            f'{{"id": {json.dumps(item.id)}, "sequence": {item.sequence}, '
            f'"digest": {json.dumps(item.digest)}, "document": {item.document}}}'
            for item in self.items
        )
        return f'{{"items": [{items}], "next": {json.dumps(self.next)}}}'


class StoreListing(StoreFile):
    """The part of a store that lists and counts; see `StoreFile` for arguments and errors."""

    def list_items(self, after: str, limit: int, filter_: Filter) -> Page:
        """Lists live items that match a filter.

        Ids are compared as UTF-8. An item that is neither written nor removed while a caller reads
        page after page is in exactly one of them.

        Args:
            after: id after which the page begins; it need not exist. Empty for the first page.
            limit: largest number of items; there may be fewer, even none, although more follow.
            filter_: filter on documents.

        Raises:
            StorageError: A row is damaged.
        """
        items: list[ListedRow] = []
        scanned = scanned_characters = characters = 0
        last_id = after
        # The SQL index `live` has the ids in order.
        query = (
            f"SELECT row, id, {filter_.sql} IS TRUE, document, sequence, digest, item_check "  # nosec B608
            "FROM items INDEXED BY live WHERE removed IS NULL AND id > ? ORDER BY id"
        )
        with (
            self._storage_errors(),
            self.reading(),
            closing(self._connection.execute(query, (*filter_.parameters, after))) as rows,
        ):
            for row, id_, matches, document, sequence, digest, checksum in rows:
                if (
                    len(items) >= limit
                    or scanned >= _MAX_SCANNED
                    or scanned_characters >= _MAX_SCANNED_CHARACTERS
                    or characters >= _MAX_CHARACTERS
                ):
                    return Page(items, last_id)
                scanned, last_id = scanned + 1, id_
                scanned_characters += len(document)
                if matches:
                    if checksum != item_checksum(id_, document, digest):
                        raise self._row_damage(row)
                    items.append(ListedRow(id_, document, sequence, digest))
                    characters += len(document)
        return Page(items, None)

    def count_items(self, filter_: Filter) -> int:
        """Number of live items that match a filter.

        Raises:
            StorageError: The file is damaged.
        """
        with self._storage_errors():
            (count,) = self._connection.execute(
                f"SELECT count(*) FROM items WHERE removed IS NULL AND {filter_.sql}",  # nosec B608
                filter_.parameters,
            ).fetchone()
        return int(count)
