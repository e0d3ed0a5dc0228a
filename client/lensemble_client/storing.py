"""Writing to the index, and reading what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_client import calls
from lensemble_client.calls import Stored
from lensemble_client.connection import IN_FLIGHT, Connection, map_batches
from lensemble_contract.errors import LensembleError, NotFoundError
from lensemble_contract.items import Item, Picture, Record


class Storing(Connection):
    """Calls of `ingest` and `store`."""

    def ingest(
        self,
        id: str,
        text: str | None = None,
        image: Picture | Sequence[Picture] | None = None,
        *,
        document: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Embeds one item and stores it; on return every search finds it, and it is on the disk.

        An item of that id is replaced; the same item again changes nothing.

        Args:
            id: 1 to 512 bytes of UTF-8.
            text: Text of the item.
            image: Encoded bytes, path, or Pillow image; or several of them.
            document: JSON object that hits carry, and that filters look at.
            instruction: Replaces the profile's instruction.
            timeout_s: Seconds for this call.

        Returns:
            The sequence number of the change.

        Raises:
            ReadOnlyError: The server takes no writes.
            LensembleError: Any class of the tree in `errors`.
        """
        record = Record(id, Item.of(text, image, instruction), document or {})
        return self.run(calls.ingest(record), timeout_s)[0]

    def ingest_many(
        self,
        records: Iterable[Record],
        *,
        resume: bool = True,
        concurrency: int = IN_FLIGHT,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> list[int | LensembleError]:
        """Embeds and stores many items, several calls at a time; the server batches them.

        One item's error takes that item's place in the result and leaves the others alone. After a
        break, call it again with the same items: those that are stored already are not sent.

        Args:
            records: What to store; read as it is worked on, so it may be a generator.
            resume: Whether to ask the server first for what it has.
            concurrency: Calls under way at a time.
            timeout_s: Seconds for each call.
            progress: Whether to show a progress bar on standard error.

        Returns:
            For each item, in order, its sequence number or its error.
        """

        def one(batch: list[tuple[int, Record]]) -> list[int | LensembleError]:
            ((_, record),) = batch
            try:
                if resume:
                    stored = self.run(calls.get(record.id), timeout_s)
                    if there := calls.unchanged(stored, record):
                        return [there]
                return [*self.run(calls.ingest(record), timeout_s, patient=True)]
            except LensembleError as error:
                return [error]

        return map_batches(
            ([entry] for entry in enumerate(records)),
            one,
            label="ingest",
            total=len(records) if isinstance(records, Sized) else None,
            in_flight=concurrency,
            progress=progress,
        )

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        documents: Sequence[Mapping[str, Any]] | None = None,
        *,
        profile: str,
        timeout_s: float | None = None,
    ) -> list[int]:
        """Stores vectors that were made before; on return they are on the disk.

        More than `contract.MAX_BATCH_SIZE` go in several calls, each all or nothing.

        Args:
            ids: N, 1 to 512 bytes of UTF-8 each.
            vectors: (N, D) float32, unit length.
            documents: N JSON objects; None stores empty ones.
            profile: Hash of the profile that the vectors were made under (`profile_hash` in `stats`
                of the server that made them, or in the checkpoint's card); another one than the
                index's is refused.
            timeout_s: Seconds for each call.

        Returns:
            The sequence number of each.

        Raises:
            ReadOnlyError: The server takes no writes.
            InvalidInputError: An item is at fault, or the profile is another one.
            LensembleError: Any class of the tree in `errors`.
        """
        made = calls.upsert(ids, vectors, documents, profile)
        return [sequence for call in made for sequence in self.run(call, timeout_s)]

    def delete(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[int]:
        """Removes items; on return no search finds them.

        Args:
            ids: Of the items; one that is not there is no fault.
            timeout_s: Seconds for each call.

        Returns:
            The sequence number of each removal, 0 where there was nothing to remove.

        Raises:
            ReadOnlyError: The server takes no writes.
            LensembleError: Any class of the tree in `errors`.
        """
        made = calls.delete(ids)
        return [sequence for call in made for sequence in self.run(call, timeout_s)]

    def get(self, id: str, *, timeout_s: float | None = None) -> Stored:
        """Reads one stored item.

        Args:
            id: Of the item.
            timeout_s: Seconds for this call.

        Raises:
            NotFoundError: There is no such item.
            LensembleError: Any class of the tree in `errors`.
        """
        stored = self.run(calls.get(id), timeout_s)
        if stored is None:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return stored

    def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the index is: counts, sizes, profile, plan, and what its snapshot says of itself.

        Raises:
            NotReadyError: The server has no index.
            LensembleError: Any class of the tree in `errors`.
        """
        return self.run(calls.stats(), timeout_s)
