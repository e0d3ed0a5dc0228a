"""Logs as one JSON object per line, for log collectors: our own messages and Triton's.

Triton writes its log into a file. `LogRelay` follows the file, writes new messages to standard
output as JSON, and truncates the file when it gets large, because in a container it is kept in
memory.
"""

from __future__ import annotations

import contextlib
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

# Triton's log file is truncated beyond this size.
MAX_BYTES = 16 * 1024 * 1024

_POLL_S = 0.25
_TRITON_LINE = re.compile(
    r"^(?P<level>[EWIF])(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d\.\d+) "
    r"(?P<pid>\d+) (?P<source>[^\]]+)\] (?P<message>.*)$"
)
_LEVELS = {"E": "ERROR", "W": "WARNING", "I": "INFO", "F": "CRITICAL"}
_REQUEST = re.compile(r"\brequest ([A-Za-z0-9._-]{1,64})\b")


def json_line(level: str, source: str, message: str, when: datetime, **more: Any) -> str:
    """One message as a line of JSON.

    Args:
        level: `INFO`, `WARNING`, `ERROR` or `CRITICAL`.
        source: name of the logger, or file and line of Triton's code.
        message: the message, which may have several lines.
        when: time of the message, with a time zone.
        **more: further keys.
    """
    time = when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"time": time, "level": level, "source": source, "message": message}
    if request := _REQUEST.search(message):
        entry["request_id"] = request[1]
    return json.dumps({**entry, **more}, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Formats Python's log records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        more = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json_line(
            record.levelname,
            record.name,
            record.getMessage(),
            datetime.fromtimestamp(record.created, UTC),
            **more,
        )


def log_as_json() -> None:
    """Makes this process write all its log messages to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def triton_message_as_json(text: str, today: datetime) -> str:
    """A message of tritonserver as a line of JSON.

    Args:
        text: the lines of its log that belong to one message.
        today: the current time, because the log has no year.
    """
    head, _, rest = text.partition("\n")
    parts = _TRITON_LINE.match(head)
    if parts is None:
        return json_line("INFO", "tritonserver", text, today)
    clock = datetime.strptime(parts["time"][:15], "%H:%M:%S.%f")
    when = today.replace(
        month=int(parts["month"]),
        day=int(parts["day"]),
        hour=clock.hour,
        minute=clock.minute,
        second=clock.second,
        microsecond=clock.microsecond,
    )
    message = parts["message"]
    if message.startswith('"'):  # Triton writes some messages as JSON strings
        with contextlib.suppress(ValueError):
            message = json.loads(message)
    whole = f"{message}\n{rest}" if rest else message
    return json_line(_LEVELS[parts["level"]], parts["source"], whole, when, pid=int(parts["pid"]))


class LogRelay:
    """Follows Triton's log, across restarts of the server; a context manager.

    Args:
        path: returns the current log file.
        out: where to write; standard output if None.
    """

    def __init__(self, path: Callable[[], Path], out: IO[str] | None = None) -> None:
        self._path, self._out = path, out or sys.stdout
        self._file: IO[bytes] | None = None
        self._file_id: tuple[int, int] | None = None
        self._partial = b""
        self._message_lines: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Writes the rest of the log and closes the file."""
        self._read()
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _run(self) -> None:
        while not self._stopped.wait(_POLL_S):
            self.relay()

    def relay(self) -> None:
        """Writes the messages that are new."""
        self._read()
        path = self._path()
        try:
            status = path.stat()
        except OSError:
            return
        if self._file_id != (status.st_dev, status.st_ino):
            if self._file is not None:
                self._file.close()
            try:
                self._file = path.open("rb")
            except OSError:
                return
            self._file_id, self._partial = (status.st_dev, status.st_ino), b""
            self._read()
        elif status.st_size > MAX_BYTES and self._file is not None:
            self._read()
            os.truncate(path, 0)  # Triton appends, so it continues at the beginning
            self._file.seek(0)

    def _read(self) -> None:
        if self._file is None:
            return
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if _TRITON_LINE.match(text) or not self._message_lines:
                self._flush()
            self._message_lines.append(text)
        if not lines and not self._partial:
            self._flush()  # the message is complete: no further lines (of a traceback) follow

    def _flush(self) -> None:
        if self._message_lines:
            text = "\n".join(self._message_lines).rstrip()
            self._message_lines = []
            if text:
                today = datetime.now().astimezone()  # Triton writes local time
                self._out.write(triton_message_as_json(text, today) + "\n")
                self._out.flush()
