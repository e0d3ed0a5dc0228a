"""The tables of the store's SQLite file, and the checksums of its rows.

    items    row, id, document, sequence number of the write, sequence number of the removal (NULL
             while the item is live), digest of the input of the vector, two checksums
    vectors  row, vector
    state    one row: format, profile, dimension, last sequence number, sequence number up to which
             tombstones were purged, the two newest snapshots, index plan, checksum

When an item is written again, it gets a new row, and its old row becomes a tombstone: `removed` is
set. SQLite has no checksums of its own. So each item has one checksum for its id, digest and
document, and one for its vector, and the row of `state` has one, too.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

STORE_FILE = "store.sqlite"
FORMAT = 4
PAGE_BYTES = 8192  # a vector of 2,048 dimensions fills a little more than one page

SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    removed INTEGER,
    digest TEXT NOT NULL,
    item_check INTEGER NOT NULL,
    vector_check INTEGER NOT NULL
);
CREATE UNIQUE INDEX live ON items (id) WHERE removed IS NULL;
CREATE INDEX written ON items (sequence);
CREATE INDEX gone ON items (removed) WHERE removed IS NOT NULL;
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE state (
    format INTEGER NOT NULL,
    profile_name TEXT NOT NULL,
    profile_hash TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    snapshot TEXT NOT NULL,
    previous TEXT NOT NULL,
    plan TEXT NOT NULL,
    state_check INTEGER NOT NULL
);
"""


class StoreState(NamedTuple):
    """The single row of the table `state`; its fields are the columns, in order.

    Attributes:
        format: version of the file format.
        profile_name: name of the profile of the vectors.
        profile_hash: hash of that profile.
        dimension: length D of the vectors.
        sequence: sequence number of the last change.
        purged: sequence number up to which tombstones have been deleted.
        snapshot: name of the current snapshot; empty if there is none.
        previous: name of the snapshot before the current one; empty if there is none.
        plan: index plan of the next snapshot, as JSON.
    """

    format: int
    profile_name: str
    profile_hash: str
    dimension: int
    sequence: int
    purged: int
    snapshot: str
    previous: str
    plan: str

    @property
    def checksum(self) -> int:
        """CRC-32 of all fields."""
        return zlib.crc32("\0".join(map(str, self)).encode())


def item_checksum(id_: str, document: str, digest: str) -> int:
    """CRC-32 of an item without its vector."""
    return zlib.crc32("\0".join((id_, digest, document)).encode())
