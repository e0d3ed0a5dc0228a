"""An endless sequence of hostile pictures, texts, documents, filters, vectors and tensors.

Everything is drawn from one seed. Some inputs, such as a picture with one flipped bit, may be
answered with a vector: it must then be a valid one. `hostile_calls.py` sends them and judges the
answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from benchmarks.faults.hostile_documents import hostile_documents, store_document
from benchmarks.faults.hostile_pictures import hostile_pictures, valid_pictures
from lensemble_client import Client, Item
from lensemble_contract import contract
from lensemble_contract.items import Rows

Call = Callable[[Client], object]
Input = TypeVar("Input")


@dataclass(frozen=True, slots=True)
class HostileCall:
    """One hostile call.

    Attributes:
        kind: What is wrong with it, in a few words.
        call: Function that makes the call and returns vectors, hits, or None.
    """

    kind: str
    call: Call


def hostile_calls(seed: int, dimension: int) -> Iterator[HostileCall]:
    """Yields calls of all kinds by turns, without an end.

    Args:
        seed: Seed of everything that is drawn.
        dimension: Length D of the index's vectors.
    """
    rng = np.random.default_rng(seed)
    valid = valid_pictures()
    embed_parameters = partial(_raw, contract.EMBED, _row(b"x"))
    while True:
        yield from _by_turns(
            _calls(
                "picture", hostile_pictures(rng, valid), lambda data: _embed(Item(None, (data,)))
            ),
            _calls("text", _texts(rng), lambda text: _embed(Item(text))),
            _calls(
                "document",
                hostile_documents(rng),
                lambda text: store_document(f"hostile {rng.integers(2**63)}", text, dimension),
            ),
            _calls("filter", _filters(rng), _filter),
            _calls("vector", _vectors(rng, dimension), _search_vector),
            _calls("parameter", _parameters(rng), embed_parameters),
            _calls("tensor", _tensors(rng), lambda rows: _raw(contract.QWEN3_VL, rows, {})),
            _calls(
                "search",
                _search_parameters(rng),
                partial(_raw, contract.FAISS, _unit_row(dimension)),
            ),
        )


def _calls(
    subject: str, inputs: Iterable[tuple[str, Input]], make_call: Callable[[Input], Call]
) -> Iterator[HostileCall]:
    return (HostileCall(f"{subject}, {kind}", make_call(value)) for kind, value in inputs)


def _by_turns(*iterators: Iterator[HostileCall]) -> Iterator[HostileCall]:
    """Yields one call of each iterator, then the next one of each, until all have ended."""
    for calls in zip_longest(*iterators):
        yield from (call for call in calls if call is not None)


def _embed(item: Item) -> Call:
    return lambda client: client.embed(item.text, image=list(item.images) or None)


def _filter(condition: str) -> Call:
    rows = {contract.EMBEDDING.name: np.zeros((1, 0), np.float32)}
    parameters = {contract.FILTER: condition, contract.LIKE: "probe"}
    return _raw(contract.FAISS, rows, parameters)


def _search_vector(vector: np.ndarray[Any, Any]) -> Call:
    return lambda client: client.search_vector(vector, top_k=3)


def _raw(model: contract.Model, rows: Rows, parameters: dict[str, Any]) -> Call:
    """Returns a call that skips the client's own checks."""
    return lambda client: client._transport.infer(model, rows, parameters, 30)


def _unit_row(dimension: int) -> Rows:
    return {contract.EMBEDDING.name: np.eye(1, dimension, dtype=np.float32)}


def _row(text: bytes) -> Rows:
    return {contract.TEXT.name: np.array([[text]], np.object_)}


def _texts(rng: np.random.Generator) -> Iterator[tuple[str, str | None]]:
    points = rng.integers(0, 0xD800, int(rng.integers(1, 300)))
    yield "any characters", "".join(map(chr, points))
    yield "control characters", "".join(map(chr, rng.integers(0, 32, 40)))
    yield "lone surrogate", "a" + chr(int(rng.integers(0xD800, 0xE000))) + "b"
    special = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|video_pad|>")
    yield "special tokens", "".join(rng.choice(special, int(rng.integers(1, 30))))
    yield "many words", "word " * int(rng.integers(8_000, 40_000))
    yield "one long word", "x" * int(rng.integers(30_000, 200_000))
    yield "combining marks", "e" + "\u0301" * int(rng.integers(1, 3_000))
    yield "right to left", "\u202e" + "abc\u0627\u0644" * int(rng.integers(1, 50))
    yield "empty", ""
    yield "none", None


_OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$and", "$or")


def _filters(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    depth = int(rng.integers(2, 3_000))
    yield "deep", '{"$and":[' * depth + "{}" + "]}" * depth
    yield "deep lists", "[" * depth + "]" * depth
    yield "no json", "".join(map(chr, rng.integers(32, 127, 40)))
    yield "half json", json.dumps({"year": {"$gte": 2015}})[: int(rng.integers(1, 22))]
    yield "any value", json.dumps(_value(rng, 0))
    yield "any operators", json.dumps({"year": {str(rng.choice(_OPERATORS)): _value(rng, 0)}})
    yield "unknown operator", json.dumps({"year": {"$where": "sleep(1000)"}})
    yield "injection", json.dumps({"a') OR 1=1; DROP TABLE items; --": "x"})
    yield "huge list", json.dumps({"year": {"$in": list(range(int(rng.integers(1, 60_000))))}})
    yield "huge number", '{"year": 1' + "0" * int(rng.integers(1, 6_000)) + "}"
    yield "not a number", '{"year": NaN}'
    yield "same key twice", '{"a": 1, "a": 2}'
    yield "long name", json.dumps({"x" * int(rng.integers(100, 70_000)): 1})


def _value(rng: np.random.Generator, depth: int) -> Any:
    """Returns a random JSON value; below depth 4 it contains no further lists or objects."""
    kinds = 8 if depth < 4 else 6
    match int(rng.integers(kinds)):
        case 0:
            return None
        case 1:
            return bool(rng.integers(2))
        case 2:
            return int(rng.integers(-(2**62), 2**62))
        case 3:
            return float(rng.normal())
        case 4 | 5:
            return "".join(map(chr, rng.integers(0, 0xD800, int(rng.integers(0, 9)))))
        case 6:
            return [_value(rng, depth + 1) for _ in range(int(rng.integers(0, 4)))]
        case _:
            names = (*_OPERATORS, "year", "make", "a.b", "")
            return {
                str(rng.choice(names)): _value(rng, depth + 1)
                for _ in range(int(rng.integers(0, 4)))
            }


def _vectors(
    rng: np.random.Generator, dimension: int
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    unit = np.eye(1, dimension, dtype=np.float32)[0]
    yield "too long", unit * np.float32(rng.choice([1e-3, 1.01, 1e3, 1e30]))
    for name, value in (("nan", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        vector = rng.normal(size=dimension).astype(np.float32)
        vector[int(rng.integers(dimension))] = value
        yield name, vector
    yield "zero", np.zeros(dimension, np.float32)
    yield "huge", np.full(dimension, 3e38, np.float32)
    yield "tiny", np.full(dimension, 1e-42, np.float32)
    yield "of another length", rng.normal(size=int(rng.integers(1, 5_000))).astype(np.float32)


def _parameters(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for value in (0, -1, int(rng.integers(-(2**62), 2**62)), "x", "", True):
        yield "dimensions", {contract.DIMENSIONS: value}
        yield "top_k", {contract.TOP_K: value}
        yield "timeout_ms", {contract.TIMEOUT_MS: value}
    yield "unknown", {"".join(map(chr, rng.integers(97, 123, 8))): 1}
    yield "long", {"x" * int(rng.integers(1, 10_000)): "y" * int(rng.integers(1, 100_000))}
    yield "ping that is no bool", {contract.PING: "yes"}


def _search_parameters(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in ("\ud800", "a\0b", "", "x" * int(rng.integers(513, 5_000))):
        yield "exclude", {contract.EXCLUDE: json.dumps([text])}
    yield "many excluded", {contract.EXCLUDE: json.dumps(["x"] * int(rng.integers(1_001, 9_000)))}
    yield "long exclude", {contract.EXCLUDE: " " * int(rng.integers(3_100_000, 4_000_000))}
    yield "long profile", {contract.PROFILE: "x" * int(rng.integers(2_000, 100_000))}
    yield "filter value", {contract.FILTER: json.dumps({"a": "acme\0x"})}


def _tensors(rng: np.random.Generator) -> Iterator[tuple[str, Rows]]:
    """Yields tensors for the encoder: ids, patches and grids that do not fit together."""

    def rows(ids: Any, patches: int, grid: Any, dtype: Any = np.int32) -> Rows:
        return {
            "input_ids": np.array([ids], dtype),
            "patches": rng.integers(0, 256, (1, patches, contract.PATCH_VALUES), np.uint8),
            "image_grid_thw": np.array([grid], np.int32).reshape(1, -1, 3),
            "deadline": np.zeros((1, 1), np.int64),
        }

    ids = rng.integers(-(2**31), 2**31, int(rng.integers(1, 40)))
    yield "any ids", rows(ids, 0, [])
    yield "a million ids", rows([5] * 1_000_000, 0, [])
    yield "no ids", rows([], 0, [])
    yield "padding between ids", rows([5, -1, 6], 0, [])
    yield "patches without a grid", rows([5, 6], int(rng.integers(1, 50)), [])
    grid = rng.integers(-4, 9, (int(rng.integers(1, 4)), 3))
    yield "any grid", rows([5, 6], int(rng.integers(0, 64)), grid)
    yield "a grid beyond memory", rows([5, 6], 0, [[1, 2**30, 2**30]])
    yield "another dtype", rows([5.0, 6.0], 0, [], np.float32)
    valid = rows([5, 6], 4, [[1, 2, 2]])
    yield "patches of another width", {**valid, "patches": valid["patches"][:, :, :700]}
    yield "any deadline", {**valid, "deadline": rng.integers(-(2**63), 2**63, (1, 1))}
    yield "no rows", {name: value[:0] for name, value in valid.items()}
    yield "one tensor with more rows", {**valid, "input_ids": np.array([[5], [6]], np.int32)}
