"""The digests of items that come from a table: which table, and what their vectors depend on.

They do not cover the document, so it can be changed alone, and a comparison shows both changes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from lensemble_contract.documents import CONTENT_DIGEST
from lensemble_contract.items import Item, Record


@dataclass(frozen=True, slots=True)
class TableDigest:
    """A digest in the index, taken apart.

    Attributes:
        table: Digest of the table's name (`digest_of_name`).
        row: Digest of the row, in which files count by path, size and time
            (`row_content.digest_of`), as hexadecimal digits.
        content: Digest of the item, in which files count by their bytes; empty if it is not known.
    """

    table: str
    row: str
    content: str = ""

    def __str__(self) -> str:
        return f"{CONTENT_DIGEST}{self.table}:{self.row}:{self.content}"

    @classmethod
    def parse(cls, digest: str) -> Self | None:
        """Reads a digest from the index; None if it is of another kind."""
        parts = digest.removeprefix(CONTENT_DIGEST).split(":")
        return cls(*parts) if digest.startswith(CONTENT_DIGEST) and len(parts) == 3 else None


def digest_of_name(name: str) -> str:
    """Returns 8 hexadecimal digits for the name of a table."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def digest_of_item(item: Item) -> str:
    """Returns 32 hexadecimal digits for the content of an item."""
    return Record("", item).digest()[:32]
