"""Checks a stream of server-sent events from a chat server, event by event."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

# Each line of a server-sent event begins with one of these (HTML standard).
_FIELDS = (b"data:", b":", b"event:", b"id:", b"retry:")
_DONE = b"[DONE]"


class EventStreamCheck:
    """Holds back each event until it is complete and known to be JSON.

    Args:
        max_bytes: largest size of the stream.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes, self._max_bytes = max_bytes, max_bytes
        self._line = bytearray()  # the line that is not complete yet
        self._event: list[bytes] = []  # complete lines of the event that is not complete yet

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that are complete with the next bytes of the stream, unchanged.

        Raises:
            ValueError: The stream is too large, or the next event is no JSON object.
        """
        self._line += chunk
        lines = [self._line] if b"\n" not in chunk else self._line.split(b"\n")
        self._line = lines.pop()
        for line in lines:
            self._count(len(line) + 1)
            self._event.append(bytes(line) + b"\n")
            if not line.strip(b"\r"):
                _check_event(self._event)
                yield b"".join(self._event)
                self._event = []
        if len(self._line) > self._left_bytes:
            self._count(len(self._line))

    def end(self) -> bytes:
        """The last event, if the stream ends without the empty line after it; else no bytes.

        Raises:
            ValueError: It is no JSON object, or not complete.
        """
        lines = [*self._event, bytes(self._line)]
        self._event, self._line = [], bytearray()
        if b"".join(lines).strip():
            _check_event(lines)
            return b"".join(lines)
        return b""

    def _count(self, size: int) -> None:
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise ValueError(f"more than {self._max_bytes} bytes")


def _check_event(lines: list[bytes]) -> None:
    """Refuses an event whose data is not a JSON object.

    Raises:
        ValueError: A line is no field of an event, or the data is not a JSON object.
    """
    lines = [line.rstrip(b"\r\n") for line in lines]
    for line in lines:
        if line and not line.startswith(_FIELDS):
            raise ValueError("a line that is no server-sent event")
    data = b"\n".join(line.removeprefix(b"data:") for line in lines if line.startswith(b"data:"))
    if not data.strip() or data.strip() == _DONE:
        return
    try:
        is_object = isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        is_object = False
    if not is_object:
        raise ValueError("an event that is no JSON object")
