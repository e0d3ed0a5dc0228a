"""One JSON object a line, for who gathers logs: our own messages, and Triton's.

Triton writes into a file. `Relay` reads what is new there, writes it to standard output as JSON,
and empties the file when it gets large: in a container it lies in memory.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

MOST_BYTES = 16 * 1024 * 1024
"""Of Triton's file, before it is emptied."""
_EVERY_S = 0.25
_LINE = re.compile(
    r"^(?P<level>[EWIF])(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d\.\d+) "
    r"(?P<pid>\d+) (?P<source>[^\]]+)\] (?P<message>.*)$"
)
_LEVELS = {"E": "ERROR", "W": "WARNING", "I": "INFO", "F": "CRITICAL"}
_REQUEST = re.compile(r"\brequest ([A-Za-z0-9._-]{1,64})\b")


def line(level: str, source: str, message: str, when: datetime, **more: Any) -> str:
    """One message as a line of JSON.

    Args:
        level: `INFO`, `WARNING`, `ERROR`, `CRITICAL`.
        source: Logger, or Triton's file and line.
        message: It may have several lines.
        when: With a time zone.
        **more: Further keys.
    """
    said = {"time": when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    said |= {"level": level, "source": source, "message": message}
    if found := _REQUEST.search(message):
        said["request_id"] = found[1]
    return json.dumps({**said, **more}, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Python's log records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        more = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return line(
            record.levelname,
            record.name,
            record.getMessage(),
            datetime.fromtimestamp(record.created, UTC),
            **more,
        )


def use_json() -> None:
    """Has all of this process's messages written to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def from_triton(text: str, today: datetime) -> str:
    """A message of tritonserver as JSON.

    Args:
        text: One line of its log, or several that belong together.
        today: Of now: the log has no year.
    """
    head, _, rest = text.partition("\n")
    found = _LINE.match(head)
    if found is None:
        return line("INFO", "tritonserver", text, today)
    clock = datetime.strptime(found["time"][:15], "%H:%M:%S.%f")
    when = today.replace(
        month=int(found["month"]),
        day=int(found["day"]),
        hour=clock.hour,
        minute=clock.minute,
        second=clock.second,
        microsecond=clock.microsecond,
    )
    message = found["message"]
    try:  # Triton writes some messages as JSON strings
        message = json.loads(message) if message.startswith('"') else message
    except ValueError:
        pass
    whole = f"{message}\n{rest}" if rest else message
    return line(_LEVELS[found["level"]], found["source"], whole, when, pid=int(found["pid"]))


class Relay:
    """Follows Triton's log, also that of the server that is started next; a context manager.

    Args:
        path: Gives the file as it is now.
        out: Where to write; standard output if None.
    """

    def __init__(self, path: Callable[[], Path], out: IO[str] | None = None) -> None:
        self._path, self._out = path, out or sys.stdout
        self._file: IO[bytes] | None = None
        self._now: tuple[int, int] | None = None
        self._partial = b""
        self._message: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Writes what is left, and lets go of the file."""
        self._read()
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.look()

    def look(self) -> None:
        """Writes what is new."""
        self._read()
        path = self._path()
        try:
            state = path.stat()
        except OSError:
            return
        if self._now != (state.st_dev, state.st_ino):
            if self._file is not None:
                self._file.close()
            try:
                self._file = path.open("rb")
            except OSError:
                return
            self._now, self._partial = (state.st_dev, state.st_ino), b""
            self._read()
        elif state.st_size > MOST_BYTES and self._file is not None:
            self._read()
            os.truncate(path, 0)  # Triton appends: what it writes next is at the beginning
            self._file.seek(0)

    def _read(self) -> None:
        if self._file is None:
            return
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        for one in lines:
            text = one.decode(errors="replace")
            if _LINE.match(text) or not self._message:
                self._flush()
            self._message.append(text)
        if not lines and not self._partial:
            self._flush()  # nothing follows, such as the rest of a traceback

    def _flush(self) -> None:
        if self._message:
            text = "\n".join(self._message).rstrip()
            self._message = []
            if text:
                today = datetime.now().astimezone()  # Triton writes local time
                self._out.write(from_triton(text, today) + "\n")
                self._out.flush()
