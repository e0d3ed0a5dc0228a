"""What an index has, as far as it must be known to compare it with a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lensemble_client.client import Client
from lensemble_corpus.source import VECTOR_NUMBER_FIELD


class IndexedItem(NamedTuple):
    """One item of the index, in little memory.

    Attributes:
        digest: Digest that the index keeps with the item.
        document: `digest_of_document` of its document.
    """

    digest: str
    document: bytes


def read_indexed_items(client: Client) -> dict[str, IndexedItem]:
    """Reads the ids and digests of all items of the index.

    Raises:
        LensembleError: The index cannot be read.
    """
    return {
        item.id: IndexedItem(item.digest, digest_of_document(item.document))
        for item in client.list_items()
    }


def digest_of_document(document: Mapping[str, Any]) -> bytes:
    """Returns 16 bytes that are equal for equal documents.

    `corpus index` adds the number of the vector to each document; it does not count.
    """
    fields = {name: each for name, each in document.items() if name != VECTOR_NUMBER_FIELD}
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
