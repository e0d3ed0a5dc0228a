"""Reads a store: live items, changes after a sequence number, rows that match a filter."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lensemble.index.storage.filter import Filter, type_expression
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.list_items import StoreListing
from lensemble.index.storage.read_results import StoreChanges, StoreContents, StoredItem
from lensemble.index.storage.schema import item_checksum

_READ_ROWS = 4096
_ITEM_COLUMNS = "row, id, document, sequence, digest, vector, item_check, vector_check"


# SQLite's name of a JSON type -> its kind in `lensemble_contract.filters`.
_KIND_OF_TYPE = {
    "null": "null",
    "true": "boolean",
    "false": "boolean",
    "integer": "number",
    "real": "number",
    "text": "text",
    "array": "list",
    "object": "object",
}


class TombstonesPurgedError(Exception):
    """The store no longer has all tombstones that the caller asked for."""


class StoreReader(StoreListing):
    """The reading half of a store; see `StoreFile` for arguments and errors."""

    def __len__(self) -> int:
        """Number of live items."""
        with self._storage_errors():
            (count,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE removed IS NULL"
            ).fetchone()
        return int(count)

    def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """The live item of each id, in order; None for an id without one.

        Raises:
            StorageError: A row is damaged.
        """
        items = []
        with self._storage_errors(), self.reading():
            for id_ in ids:
                columns = self._connection.execute(
                    f"SELECT {_ITEM_COLUMNS} FROM items JOIN vectors USING (row) "  # nosec B608
                    "WHERE id = ? AND removed IS NULL",
                    (id_,),
                ).fetchone()
                items.append(None if columns is None else self._checked_item(*columns))
        return items

    def live_rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Id -> row number of its live item; ids without a live item are left out."""
        rows = {}
        with self._storage_errors(), self.reading():
            for id_ in ids:
                row = self._connection.execute(
                    "SELECT row FROM items WHERE id = ? AND removed IS NULL", (id_,)
                ).fetchone()
                if row is not None:
                    rows[id_] = int(row[0])
        return rows

    def ids_and_documents(self, rows: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Row number -> id and document, also of removed rows; purged rows are left out.

        Raises:
            StorageError: A row is damaged.
        """
        result = {}
        with self._storage_errors():
            # SQLite limits the number of parameters of one statement.
            for start in range(0, len(rows), _READ_ROWS):
                part = rows[start : start + _READ_ROWS]
                marks = ",".join("?" * len(part))
                for row, id_, document, digest, checksum in self._connection.execute(
                    "SELECT row, id, document, digest, item_check FROM items "  # nosec B608
                    f"WHERE row IN ({marks})",
                    part,
                ):
                    if checksum != item_checksum(id_, document, digest):
                        raise self._row_damage(row)
                    result[row] = (id_, document)
        return result

    def rows_matching(self, filter_: Filter, after: int = 0) -> NDArray[np.int64]:
        """Live rows whose documents match a filter.

        Args:
            filter_: filter on documents.
            after: sequence number; only rows that were written after it are returned. 0 for all.

        Returns:
            (N,) int64, ascending.

        Raises:
            StorageError: The file is damaged.
        """
        # Without `after`, SQLite may use the SQL index of a document field. With it, the few newest
        # rows are found by sequence number, and only their documents are read.
        table, is_newer, parameters = "items", "", filter_.parameters
        if after:
            table, is_newer = "items INDEXED BY written", "sequence > ? AND"
            parameters = (after, *parameters)
        with self._storage_errors(), self.reading():
            matches = self._connection.execute(
                f"SELECT row FROM {table} WHERE removed IS NULL AND {is_newer} {filter_.sql}",  # nosec B608
                parameters,
            ).fetchall()
            rows = np.sort(np.array(matches, np.int64).reshape(-1))
        return rows

    def kinds_of(self, field: str, wanted: Collection[str], after: int = 0) -> frozenset[str]:
        """The kinds of JSON values that a field has in live documents.

        Args:
            field: name of the field.
            wanted: kinds, as `lensemble_contract.filters` names them.
            after: sequence number; only rows that were written after it are read. 0 for all.

        Returns:
            One kind alone, if it is a wanted one: the search ends at the first. Else all kinds.

        Raises:
            StorageError: The file is damaged.
        """
        table, is_newer = (
            ("items INDEXED BY written", "sequence > ? AND") if after else ("items", "")
        )
        parameters = (after,) if after else ()
        type_ = type_expression(field)
        types = ", ".join(f"'{name}'" for name, kind in _KIND_OF_TYPE.items() if kind in wanted)
        rows = f"FROM {table} WHERE removed IS NULL AND {is_newer} {type_}"  # nosec B608
        with self._storage_errors(), self.reading():
            found = self._connection.execute(
                f"SELECT {type_} {rows} IN ({types}) LIMIT 1", parameters
            ).fetchall()
            if not found:
                found = self._connection.execute(
                    f"SELECT DISTINCT {type_} {rows} IS NOT NULL", parameters
                ).fetchall()
        return frozenset(_KIND_OF_TYPE[name] for (name,) in found)

    def changes_since(self, sequence: int) -> StoreChanges:
        """All changes after a sequence number.

        Args:
            sequence: sequence number of the last change that the caller knows; 0 for none.

        Raises:
            TombstonesPurgedError: Tombstones after `sequence` were purged, so removals would be
                missing; start from a newer snapshot.
            StorageError: A row is damaged.
        """
        with self._storage_errors(), self.reading():
            state = self.state
            # A caller that knows no change has no rows to remove, so it needs no tombstones.
            if 0 < sequence < state.purged:
                raise TombstonesPurgedError
            removals = self._connection.execute(
                "SELECT row, removed FROM items WHERE removed > ? ORDER BY removed", (sequence,)
            ).fetchall()
            rows, vectors = self._live_vectors(sequence)
            removed = np.array(removals, np.int64).reshape(-1, 2)
        return StoreChanges(state.sequence, rows, vectors, removed[:, 0], removed[:, 1])

    def count_changes_since(self, sequence: int) -> tuple[int, int]:
        """Counts the changes after a sequence number, for instance that of a snapshot.

        Returns:
            Number of live rows written after it, and number of rows removed after it.
        """
        with self._storage_errors(), self.reading():
            (written,) = self._connection.execute(
                "SELECT count(*) FROM items INDEXED BY written "
                "WHERE sequence > ? AND removed IS NULL",
                (sequence,),
            ).fetchone()
            (removed,) = self._connection.execute(
                "SELECT count(*) FROM items WHERE removed > ?", (sequence,)
            ).fetchone()
        return int(written), int(removed)

    def read_contents(self) -> StoreContents:
        """All live rows with their vectors, at one sequence number.

        Raises:
            StorageError: A row is damaged.
        """
        with self._storage_errors(), self.reading():
            sequence = self.state.sequence
            last_row = self._connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'items'"
            ).fetchone()
            rows, vectors = self._live_vectors(0)
        return StoreContents(sequence, last_row[0] if last_row else 0, rows, vectors)

    def live_items(self) -> Iterator[StoredItem]:
        """Every live item, in the order of rows, at one sequence number; checks all checksums.

        Raises:
            StorageError: A row is damaged.
        """
        with self._storage_errors(), self.reading():
            for columns in self._connection.execute(
                f"SELECT {_ITEM_COLUMNS} FROM items JOIN vectors USING (row) "  # nosec B608
                "WHERE removed IS NULL ORDER BY row"
            ):
                yield self._checked_item(*columns)

    def verify(self) -> int:
        """Reads the whole file: checks SQLite's structure and the checksums of every row.

        Returns:
            Number of rows, removed ones included.

        Raises:
            StorageError: Something is damaged.
        """
        count = 0
        with self._storage_errors(), self.reading():
            IndexPlan.from_json(self.state.plan)  # raises if the plan cannot be read
            (verdict,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise self._damage(f"SQLite's integrity check says: {verdict}")
            for columns in self._connection.execute(
                f"SELECT {_ITEM_COLUMNS} FROM items LEFT JOIN vectors USING (row)"  # nosec B608
            ):
                row, *_, vector, _, _ = columns
                if vector is None or len(vector) != 4 * self.dimension:
                    raise self._row_damage(row, "its vector is missing or has a wrong length")
                self._checked_item(*columns)
                count += 1
            (vectors,) = self._connection.execute("SELECT count(*) FROM vectors").fetchone()
        if vectors != count:
            raise self._damage(f"it has {count} items and {vectors} vectors")
        return count

    def _live_vectors(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Live rows written after a sequence number, (N,) ascending, and their vectors, (N, D)."""
        rows = [np.empty(0, np.int64)]
        vectors = [np.empty((0, self.dimension), np.float32)]
        # Row numbers and sequence numbers grow together, so both orders give the same result. All
        # rows are read in the table's own order. The few newest ones are found by sequence number;
        # with ORDER BY row, SQLite would read the whole table to find them.
        table, order = ("items INDEXED BY written", "sequence") if sequence else ("items", "row")
        cursor = self._connection.execute(
            f"SELECT row, vector, vector_check FROM {table} JOIN vectors USING (row) "  # nosec B608
            f"WHERE sequence > ? AND removed IS NULL ORDER BY {order}",
            (sequence,),
        )
        while part := cursor.fetchmany(_READ_ROWS):
            for row, vector, checksum in part:
                if zlib.crc32(vector) != checksum:
                    raise self._row_damage(row)
            joined = np.frombuffer(b"".join(vector for _, vector, _ in part), np.float32)
            rows.append(np.array([row for row, *_ in part], np.int64))
            vectors.append(joined.reshape(len(part), self.dimension))
        return np.concatenate(rows), np.concatenate(vectors)

    def _checked_item(
        self,
        row: int,
        id_: str,
        document: str,
        sequence: int,
        digest: str,
        vector: bytes,
        item_check: int,
        vector_check: int,
    ) -> StoredItem:
        """Checks the checksums of an item's columns `_ITEM_COLUMNS`, and returns the item."""
        computed = item_checksum(id_, document, digest), zlib.crc32(vector)
        if computed != (item_check, vector_check):
            raise self._row_damage(row)
        return StoredItem(row, id_, document, np.frombuffer(vector, np.float32), sequence, digest)
