"""Writing to the index, and reading what is stored."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client import contract
from lensemble_client.connection import Connection, json_text
from lensemble_client.errors import InvalidInputError, LensembleError, NotFoundError
from lensemble_client.items import Item, Picture, Record, Rows, to_rows


@dataclass(frozen=True, slots=True)
class Stored:
    """One item of the corpus as it is stored.

    Attributes:
        id: The caller's own.
        document: The JSON document.
        embedding: (D,) float32, unit length.
        sequence: The number of the change that wrote it.
        digest: Of what it was made from; empty if not known.
    """

    id: str
    document: dict[str, Any]
    embedding: NDArray[np.float32]
    sequence: int
    digest: str


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
        return self._ingest(
            Record(id, Item.of(text, image, instruction), document or {}), timeout_s
        )

    def ingest_many(
        self,
        records: Iterable[Record],
        *,
        resume: bool = True,
        concurrency: int = 16,
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
        total = len(records) if isinstance(records, Sized) else None

        def one(record: Record) -> int | LensembleError:
            try:
                if resume and (there := self._unchanged(record, timeout_s)):
                    return there
                return self._ingest(record, timeout_s)
            except LensembleError as error:
                return error

        results: list[int | LensembleError] = []
        with (
            ThreadPoolExecutor(max(1, concurrency)) as pool,
            tqdm(desc="ingest", total=total, unit="item", disable=not progress) as bar,
        ):
            waiting: deque[Future[int | LensembleError]] = deque()
            for record in records:
                waiting.append(pool.submit(one, record))
                if len(waiting) >= 2 * concurrency:
                    results.append(waiting.popleft().result())
                    bar.update()
            for future in waiting:
                results.append(future.result())
                bar.update()
        return results

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
        said = [{}] * len(ids) if documents is None else documents
        if not len(ids) == len(vectors) == len(said):
            raise InvalidInputError(
                f"{len(ids)} ids, {len(vectors)} vectors, {len(said)} documents", field="vectors"
            )
        sequences: list[int] = []
        for start in range(0, len(ids), contract.MAX_BATCH_SIZE):
            part = slice(start, start + contract.MAX_BATCH_SIZE)
            rows = _store_rows(ids[part], vectors[part], said[part])
            answer = self.infer(contract.STORE, rows, {contract.PROFILE: profile}, timeout_s)
            sequences += answer[contract.SEQUENCE.name][:, 0].tolist()
        return sequences

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
        sequences: list[int] = []
        for start in range(0, len(ids), contract.MAX_BATCH_SIZE):
            rows = _store_rows(ids[start : start + contract.MAX_BATCH_SIZE])
            said = {contract.OPERATION: contract.DELETE}
            answer = self.infer(contract.STORE, rows, said, timeout_s)
            sequences += answer[contract.SEQUENCE.name][:, 0].tolist()
        return sequences

    def get(self, id: str, *, timeout_s: float | None = None) -> Stored:
        """Reads one stored item.

        Args:
            id: Of the item.
            timeout_s: Seconds for this call.

        Raises:
            NotFoundError: There is no such item.
            LensembleError: Any class of the tree in `errors`.
        """
        stored = self._stored(id, timeout_s)
        if stored is None:
            raise NotFoundError(f"no item {id!r} in the index", field="id")
        return stored

    def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the index is: counts, sizes, profile, plan, and what its snapshot says of itself.

        Raises:
            NotReadyError: The server has no index.
            LensembleError: Any class of the tree in `errors`.
        """
        said = {contract.OPERATION: contract.STATS}
        answer = self.infer(contract.STORE, _store_rows([""]), said, timeout_s)
        found: dict[str, Any] = json.loads(answer[contract.STORED_DOCUMENT.name][0, 0])
        return found

    def _ingest(self, record: Record, timeout_s: float | None) -> int:
        rows = {**to_rows([record.item]), **_named_rows([record.id], [record.document])}
        said = {contract.DIGEST: record.digest()}
        answer = self.infer(contract.INGEST, rows, said, timeout_s)
        return int(answer[contract.SEQUENCE.name][0, 0])

    def _unchanged(self, record: Record, timeout_s: float | None) -> int:
        """The sequence number of a stored item that is the same; 0 if there is none."""
        stored = self._stored(record.id, timeout_s)
        same = stored is not None and stored.digest == record.digest()
        return stored.sequence if stored is not None and same else 0

    def _stored(self, id_: str, timeout_s: float | None) -> Stored | None:
        answer = self.infer(
            contract.STORE, _store_rows([id_]), {contract.OPERATION: contract.GET}, timeout_s
        )
        sequence = int(answer[contract.SEQUENCE.name][0, 0])
        if not sequence:
            return None
        return Stored(
            id_,
            json.loads(answer[contract.STORED_DOCUMENT.name][0, 0]),
            answer[contract.STORED_EMBEDDING.name][0],
            sequence,
            answer[contract.STORED_DIGEST.name][0, 0].decode(),
        )


def _named_rows(ids: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> Rows:
    """`id` and `document`, (B, 1) objects of bytes."""
    said = [json_text(document, contract.DOCUMENT.name).encode() for document in documents]
    return {
        contract.ID.name: np.array([[_encoded(id_)] for id_ in ids], np.object_),
        contract.DOCUMENT.name: np.array([[one] for one in said], np.object_),
    }


def _encoded(id_: str) -> bytes:
    try:
        return id_.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{id_!r} is not valid Unicode", field="id") from error


def _store_rows(
    ids: Sequence[str],
    vectors: NDArray[np.float32] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> Rows:
    """Inputs of `store`; where it needs no vector, one of length 0."""
    rows = _named_rows(ids, [{}] * len(ids) if documents is None else documents)
    none = np.empty((len(ids), 0), np.float32)
    rows[contract.EMBEDDING.name] = none if vectors is None else np.asarray(vectors, np.float32)
    return rows
