# Generated from lensemble_client/_async/store.py by `make generate`. Edit that file instead.
"""The calls that write to the index and read from it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_client import calls
from lensemble_client._sync.base import BaseClient
from lensemble_client.concurrency.threads import map_batches
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_client.results import ListedItem, Stored
from lensemble_contract.errors import InvalidInputError, LensembleError, NotFoundError
from lensemble_contract.items import Item, Picture, Record


class StoreCalls(BaseClient):
    """Calls of the models `ingest` and `store`."""

    def ingest(
        self,
        id: str,
        text: str | None = None,
        image: Picture | Sequence[Picture] | Iterator[Picture] | None = None,
        *,
        document: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Embeds one item and stores it.

        When the call returns, the item is on disk and every search finds it. An item with the same
        id is replaced; storing the same item again changes nothing.

        Args:
            id: 1 to 512 bytes of UTF-8.
            text: Text of the item.
            image: As in `embed`.
            document: JSON object that comes with hits and that filters read; at most 64 KiB
                (`lensemble_contract.documents`).
            instruction: Replaces the profile's instruction.
            timeout_s: Seconds for this call.

        Returns:
            The sequence number of the write.

        Raises:
            ReadOnlyError: The server accepts no writes.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        item = Item.of(text, image, instruction)
        record = Record(id, item, {} if document is None else document)
        (sequence,) = self.run(calls.ingest(record), timeout_s)
        return sequence

    def ingest_many(
        self,
        records: Iterable[Record],
        *,
        resume: bool = True,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[int | LensembleError]:
        """Embeds and stores many items, several requests at a time; the server batches them.

        If an item fails, its error takes its place in the result; the others are not affected.
        After an interruption, call it again with the same items: those that are already stored are
        not sent again.

        Args:
            records: Records to store; they are read while requests run, so this may be a generator.
            resume: Whether to ask the server for each record first, and skip it if it is stored.
            concurrency: Number of requests that run at the same time.
            timeout_s: Seconds for each batch of items, with all its retries.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each record, in order, its sequence number or its error.
        """

        def ingest_one(batch: list[tuple[int, Record]]) -> list[int | LensembleError]:
            ((n, record),) = batch
            try:
                if not isinstance(record, Record):
                    raise InvalidInputError(
                        f"it is of type {type(record).__name__}; expected a Record",
                        field=f"records[{n}]",
                    )
                if resume:
                    stored = self.run(calls.get(record.id), timeout_s)
                    if sequence := calls.sequence_if_unchanged(stored, record):
                        return [sequence]
                return [*self.run(calls.ingest(record), timeout_s, patient=True)]
            except LensembleError as error:
                return [error]

        return map_batches(
            ([numbered] for numbered in enumerate(records)),
            ingest_one,
            concurrency=concurrency,
            label="ingest",
            total=len(records) if isinstance(records, Sized) else None,
            progress=progress,
        )

    def upsert(
        self,
        ids: Iterable[str],
        vectors: NDArray[np.float32] | Sequence[Sequence[float]],
        documents: Iterable[Mapping[str, Any]] | None = None,
        *,
        profile: str,
        timeout_s: float | None = None,
    ) -> list[int]:
        """Stores vectors that the caller already has. When the call returns, they are on disk.

        More than `contract.MAX_BATCH_SIZE` vectors are sent in several requests. Each request is
        stored completely or not at all.

        Args:
            ids: N ids, 1 to 512 bytes of UTF-8 each.
            vectors: (N, D) float32, unit length.
            documents: N JSON objects; None stores empty ones.
            profile: Hash of the profile under which the vectors were made: `profile_hash` in the
                `stats` of the server that made them, or `profile` in the `manifest.json` that
                `lensemble corpus embed` wrote. The call is refused if the index has another
                profile.
            timeout_s: Seconds for each batch of items, with all its retries.

        Returns:
            The sequence number of each write.

        Raises:
            ReadOnlyError: The server accepts no writes.
            InvalidInputError: An item is not valid, or the profile is not that of the index.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        requests = calls.upsert(ids, vectors, documents, profile)
        return [sequence for call in requests for sequence in self.run(call, timeout_s)]

    def delete(self, ids: Iterable[str], *, timeout_s: float | None = None) -> list[int]:
        """Removes items. When the call returns, no search finds them.

        Args:
            ids: Ids of the items; an id that is not stored is not an error. A single id needs a
                list, too.
            timeout_s: Seconds for each batch of items, with all its retries.

        Returns:
            The sequence number of each removal, 0 for an id that was not stored.

        Raises:
            ReadOnlyError: The server accepts no writes.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        requests = calls.delete(ids)
        return [sequence for call in requests for sequence in self.run(call, timeout_s)]

    def get(self, id: str, *, timeout_s: float | None = None) -> Stored:
        """Reads one stored item.

        Args:
            id: Id of the item.
            timeout_s: Seconds for this call.

        Raises:
            NotFoundError: There is no such item.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        stored = self.run(calls.get(id), timeout_s)
        if stored is None:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return stored

    def patch(
        self,
        id: str,
        document: Mapping[str, Any],
        *,
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> int:
        """Changes the document of a stored item; its vector stays, and nothing is embedded.

        When the call returns, the change is on disk and every search finds it.

        Args:
            id: Id of the item.
            document: Object that is merged into the stored document as a JSON merge patch (RFC
                7396): its fields replace those of the document, objects are merged, and null
                removes a field.
            replace: Whether the object replaces the whole document instead.
            timeout_s: Seconds for this call.

        Returns:
            The sequence number of the change; the item's, if nothing changes.

        Raises:
            NotFoundError: There is no such item.
            ReadOnlyError: The server accepts no writes.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        call = calls.change_document(id, document, merge=not replace)
        (sequence,) = self.run(call, timeout_s)
        if not sequence:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return sequence

    def list_items(
        self,
        filter: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Generator[ListedItem]:
        """Yields all stored items that match a filter, in the order of their ids as UTF-8.

        Items are read in pages while the caller goes on. An item that is written or removed
        meanwhile may be in the list or not, but no item is in it twice.

        Args:
            filter: Condition on documents, such as `{"year": {"$gte": 2015}}` (docs/index.md).
            timeout_s: Seconds for each page, with all its retries.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        after: str | None = ""
        while after is not None:
            page = self.run(calls.list_page(filter, after), timeout_s)
            for item in page.items:
                yield item
            after = page.next

    def count(
        self, filter: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> int:
        """Counts the stored items that match a filter.

        Args:
            filter: As in `list_items`; None counts all items.
            timeout_s: Seconds for this call.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        return self.run(calls.count(filter), timeout_s)

    def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Reads the description of the index: counts, sizes, profile, plan and snapshot.

        Args:
            timeout_s: Seconds for this call.

        Returns:
            A JSON object, as `lensemble index stats` prints it (docs/maintenance.md).

        Raises:
            NotReadyError: The server has no index.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        return self.run(calls.stats(), timeout_s)
