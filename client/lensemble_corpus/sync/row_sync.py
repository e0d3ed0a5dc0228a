"""Compares one row of a table with the index, and writes what differs."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from lensemble_client import calls
from lensemble_client.client import Client
from lensemble_contract.errors import InvalidInputError, NotFoundError
from lensemble_contract.items import Item, Record
from lensemble_corpus.source import EmbeddableRow, check_picture_sizes
from lensemble_corpus.sync.indexed_items import IndexedItem, digest_of_document
from lensemble_corpus.sync.table_digest import TableDigest, digest_of_item


class Outcome(StrEnum):
    """What becomes of an item."""

    ADDED = "added"
    EMBEDDED_AGAIN = "embedded again"
    DOCUMENT_CHANGED = "document changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


class RowSync:
    """Makes items of the index equal to rows. Several threads may use one object.

    Args:
        client: Client of a running server.
        table: Digest of the table's name.
        dry_run: Whether to compare without writing.
    """

    def __init__(self, client: Client, table: str, *, dry_run: bool) -> None:
        self._client, self._table, self._dry_run = client, table, dry_run

    def is_current(self, row: EmbeddableRow, stored: IndexedItem | None) -> bool:
        """Whether the index has exactly this row; no file is read."""
        if stored is None:
            return False
        digest = TableDigest.parse(stored.digest)
        return (
            digest is not None
            and (digest.table, digest.row) == (self._table, row.digest.hex())
            and stored.document == digest_of_document(json.loads(row.json_text))
        )

    def apply(self, row: EmbeddableRow, stored: IndexedItem | None) -> Outcome:
        """Writes a row, unless the index has it already.

        Args:
            row: The row.
            stored: The item with its id in the index; None if there is none.

        Raises:
            LensembleError: The row cannot be read, or the server refuses it or cannot be reached.
        """
        document: dict[str, Any] = json.loads(row.json_text)
        if stored is None:
            return self._embed(row, document, self._read(row), Outcome.ADDED)
        digest = TableDigest.parse(stored.digest)
        if digest is not None and digest.table != self._table:
            raise InvalidInputError(
                "the index has this id from another table; change the id, or, if that table was "
                "renamed, give its earlier name (--name)",
                field="id",
            )
        same_document = stored.document == digest_of_document(document)
        outcome = Outcome.UNCHANGED if same_document else Outcome.DOCUMENT_CHANGED
        if digest is not None and digest.row == row.digest.hex():
            if same_document:
                return outcome
            return self._change_document(row, document, digest, outcome)
        item = self._read(row)
        content = digest_of_item(item)
        # An item that `ingest` has stored has a digest of content and document together.
        if (digest is not None and digest.content == content) or (
            digest is None and Record(row.entry.id, item, document).digest() == stored.digest
        ):
            renewed = TableDigest(self._table, row.digest.hex(), content)
            return self._change_document(row, document, renewed, outcome)
        return self._embed(row, document, item, Outcome.EMBEDDED_AGAIN)

    def _read(self, row: EmbeddableRow) -> Item:
        check_picture_sizes(row.entry)
        try:
            return row.entry.item()
        except ValueError as error:  # a null character in a path
            raise InvalidInputError(str(error)) from error

    def _embed(
        self, row: EmbeddableRow, document: dict[str, Any], item: Item, outcome: Outcome
    ) -> Outcome:
        if not self._dry_run:
            digest = TableDigest(self._table, row.digest.hex(), digest_of_item(item))
            record = Record(row.entry.id, item, document)
            self._client.run(calls.ingest(record, str(digest)), patient=True)
        return outcome

    def _change_document(
        self, row: EmbeddableRow, document: dict[str, Any], digest: TableDigest, outcome: Outcome
    ) -> Outcome:
        """Writes document and digest; the vector stays."""
        if not self._dry_run:
            call = calls.change_document(row.entry.id, document, merge=False, digest=str(digest))
            (sequence,) = self._client.run(call, patient=True)
            if not sequence:
                raise NotFoundError("somebody has removed the item meanwhile; run it again")
        return outcome
