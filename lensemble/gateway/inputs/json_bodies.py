"""JSON bodies of requests: counted while they arrive, then parsed and checked.

One event loop serves all callers, and parsing a body with millions of values takes seconds and
gigabytes. So the values of a body are counted piece by piece while it arrives, and a body with too
many is refused before any of it is parsed. A list with a limit is counted before its entries are
checked, and the check ends at the first fault. Large bodies are parsed and checked in a thread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from lensemble.gateway.errors import from_validation_errors
from lensemble.gateway.inputs.json_parser import parse_json
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

# JSON values in one body, as `ValueCounter` counts them. `orjson` parses as many in 15 ms or less,
# during which no other thread runs.
MAX_VALUES = 250_000
# Larger than the vectors of any model.
MAX_VECTOR = 65_536
MAX_MESSAGES = 16

# Fields with items, or with ids of items.
_ITEM_FIELDS = ("input", "items", "ids")

# Bodies up to this size are parsed on the event loop, because a thread would take longer.
_SMALL_BYTES = 64 * 1024

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
# An integer that may have more than 64 bits.
_LONG_INTEGER = re.compile(rb"(?<=[\[,:\s])(?:-\d{19}|\d{20})\d*+(?=[,\]}\s])")

_TAIL_BYTES = 400

# Two threads are enough, since only one of them can run Python at a time.
_threads = ThreadPoolExecutor(2, "json")

Body = TypeVar("Body", bound=BaseModel)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ValueCounter:
    """Counts the values of a JSON text that arrives in pieces, without parsing it.

    Args:
        max_values: largest number of values.

    Attributes:
        values: about the number of values so far; a list or an object counts for three.
        size: number of bytes so far.
        long_integer: an integer that may have more than 64 bits; empty if there is none.
    """

    def __init__(self, max_values: int = MAX_VALUES) -> None:
        self._max_values = max_values
        self.values, self.size = 0, 0
        self.long_integer = b""
        self._in_string = 0  # 1 if the text so far ends inside a string
        self._escape = b""  # a backslash at the end of the last piece
        self._tail = b""  # the end of the last piece, in which a number may have begun

    def feed(self, piece: bytes) -> None:
        """Counts the values of the next piece.

        Raises:
            InvalidInputError: There are more than `max_values` so far.
        """
        self.size += len(piece)
        text = _ESCAPE.sub(b"", self._escape + piece)
        self._escape = b"\\" if text.endswith(b"\\") else b""
        parts = text.split(b'"')  # without escapes, every quote begins or ends a string
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= (len(parts) - 1) % 2
        # A container takes as much memory and time as three scalars. To find the ends of strings,
        # the parser looks at each escaped quote.
        containers = outside.count(b"[") + outside.count(b"{")
        self.values += outside.count(b",") + 3 * containers + piece.count(b'\\"') // 16
        if self.values > self._max_values:
            raise InvalidInputError(
                f"more than {self._max_values} values in the body; send fewer or smaller items, in "
                "several requests"
            )
        outside = self._tail + outside
        if not self.long_integer and (match := _LONG_INTEGER.search(outside)):
            self.long_integer = match[0]
        self._tail = outside[-_TAIL_BYTES:]


class BodyReader:
    """Reads JSON bodies.

    Args:
        max_items: largest number of items, or of ids, in one request.
    """

    def __init__(self, max_items: int) -> None:
        self._max_counts = {
            "input": max_items,
            "items": max_items,
            "ids": max_items,
            "messages": MAX_MESSAGES,
            "exclude": contract.MAX_EXCLUDED,
            "vector": MAX_VECTOR,
        }

    async def read(self, request: Request, model: type[Body], *, any_type: bool = False) -> Body:
        """The body of a request.

        Args:
            request: the request.
            model: schema of the body.
            any_type: whether the request may have another content type than JSON's.

        Raises:
            InvalidInputError: The body is not JSON of that schema, or it has too many values.
        """
        if not any_type and not _is_json(request):
            raise InvalidInputError(
                "the body is not a JSON object; send one, with `Content-Type: application/json`"
            )
        pieces, counter = await _receive(request)

        def parse() -> Body:
            fields = _parse_object(pieces, counter)
            self._check_counts(fields)
            try:
                return model.model_validate(fields)
            except ValidationError as error:
                raise from_validation_errors(error.errors(include_url=False)) from error

        return await run_off_loop(counter.size, parse)

    async def read_object(self, request: Request) -> dict[str, Any]:
        """The body of a request that may have any fields.

        Raises:
            InvalidInputError: The body is not a JSON object, or it has too many values.
        """
        pieces, counter = await _receive(request)
        return await run_off_loop(counter.size, _parse_object, pieces, counter)

    def _check_counts(self, fields: Mapping[str, Any]) -> None:
        """Refuses lists that are too long, before their entries are checked."""
        for field, max_count in self._max_counts.items():
            value = fields.get(field)
            if not isinstance(value, list) or len(value) <= max_count:
                continue
            if field == "input" and isinstance(value[0], int):
                continue  # token ids, for which the schema has a better error
            remedy = "send several requests" if field in _ITEM_FIELDS else "send fewer"
            raise InvalidInputError(
                f"{len(value)} entries; at most {max_count} in one request; {remedy}", field=field
            )


async def run_off_loop(
    size: int,
    function: Callable[Parameters, Result],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """Calls a function whose duration grows with the size of its input.

    Args:
        size: bytes of the input. With few of them, the function runs on the event loop, and else in
            a thread, so that the event loop can do other work.
        function: the function.
        args: its arguments.
        kwargs: its arguments.
    """
    if size <= _SMALL_BYTES:
        return function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, lambda: function(*args, **kwargs))


def pieces_of(content: bytes) -> Iterator[bytes]:
    """Cuts bytes into pieces that each take at most a few milliseconds to look at."""
    for start in range(0, len(content), _SMALL_BYTES):
        yield content[start : start + _SMALL_BYTES]


async def _receive(request: Request) -> tuple[list[bytes], ValueCounter]:
    counter, pieces = ValueCounter(), []
    async for message in request.stream():
        for piece in pieces_of(message):
            counter.feed(piece)
            pieces.append(piece)
            if counter.size >= _SMALL_BYTES:
                await asyncio.sleep(0)  # the next piece may be there already
    return pieces, counter


def _is_json(request: Request) -> bool:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return content_type == "application/json" or (
        content_type.startswith("application/") and content_type.endswith("+json")
    )


def _parse_object(pieces: list[bytes], counter: ValueCounter) -> dict[str, Any]:
    parsed = parse_json(b"".join(pieces), counter.long_integer)
    if not isinstance(parsed, dict):
        raise InvalidInputError(
            f"the body is a JSON {type(parsed).__name__}; expected an object; see /docs"
        )
    return parsed
