"""Documents at and beyond every rule for them, as JSON text, and the call that stores one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np

from lensemble_client import Client
from lensemble_contract import contract
from lensemble_contract.documents import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH
from lensemble_contract.errors import NotFoundError
from lensemble_contract.items import blank_rows


def hostile_documents(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yields what is special about a document, and its JSON text; some of them are valid."""
    for levels in (MAX_DOCUMENT_DEPTH, MAX_DOCUMENT_DEPTH + 1, int(rng.integers(100, 20_000))):
        yield "nested", '{"a":' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"
    for integer in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2 ** int(rng.integers(64, 4_000))):
        yield "large integer", json.dumps({"n": integer})
    yield "many digits", '{"n": 1' + "0" * int(rng.integers(5_000, 20_000)) + "}"
    yield "infinite number", '{"n": 1e' + "9" * int(rng.integers(3, 300)) + "}"
    yield "no JSON value", '{"n": NaN}'
    for text in ("acme\0x", "\0", "\ud800", "\u2028\x01\x7f"):
        yield "special text", json.dumps({"tenant": text})
        yield "special name", json.dumps({text: 1})
    for size in (MAX_DOCUMENT_BYTES, MAX_DOCUMENT_BYTES + 1, 10 * MAX_DOCUMENT_BYTES):
        yield "large", json.dumps({"a": "x" * (size - 8)})
    yield "long escapes", '{"a": "' + "\\u0061" * int(rng.integers(1, 60_000)) + '"}'
    yield "many names", json.dumps({f"{n}": n for n in range(int(rng.integers(1, 5_000)))})
    yield "same name twice", '{"a": 1, "a": 2}'
    yield "half a document", json.dumps({"year": 2019, "make": "seat"})[: int(rng.integers(1, 30))]
    yield "no object", str(rng.choice(["[1]", "5", "null", '"x"', "true"]))


def store_document(id_: str, text: str, dimension: int) -> Callable[[Client], None]:
    """Returns a call that stores a document past the client's own checks, and reads it again.

    Args:
        id_: Id of the item; it is removed at the end.
        text: JSON text of the document; it may have lone surrogates in escapes only.
        dimension: Length D of the index's vectors.
    """
    rows = {
        contract.ID.name: np.array([[id_.encode()]], np.object_),
        contract.DOCUMENT.name: np.array([[text.encode()]], np.object_),
        contract.EMBEDDING.name: np.eye(1, dimension, dtype=np.float32),
        **blank_rows(contract.CARRIED),
    }

    def call(client: Client) -> None:
        try:
            client._transport.infer(contract.STORE, rows, {}, 30)
            stored = client.get(id_).document
            if json.dumps(stored) != json.dumps(json.loads(text)):
                raise ValueError(f"{text[:60]!a} came back as {stored!a:.60}")
        except NotFoundError as error:
            raise ValueError("the write was acknowledged, and there is no item") from error
        finally:
            client.delete([id_])

    return call
