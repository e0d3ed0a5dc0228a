"""Where a connection may be used: in one process, in one event loop, and until it is closed."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lensemble_contract.errors import InvalidInputError, NotReadyError

T = TypeVar("T")

# Connections of the parent process. They are kept, because their destructors would close the
# parent's sockets, or wait for threads that this process does not have.
_inherited: list[object] = []


def closed_error() -> NotReadyError:
    """Returns the error of a call of a client that was closed."""
    return NotReadyError("this client was closed; make another one")


class PerProcess(Generic[T]):
    """A connection that each process opens for itself.

    A process that was forked has none of its parent's threads, and shares its sockets: a call on
    the parent's connection would wait for ever, or take the answer of another call.

    Args:
        connect: Opens a connection; called now with False, and in a forked process at the first use
            there with True.
        abandon: Called in a forked process with the parent's connection, which must stay open.
    """

    def __init__(
        self, connect: Callable[[bool], T], abandon: Callable[[T], None] | None = None
    ) -> None:
        self._connect, self._abandon = connect, abandon
        self._lock = threading.Lock()
        self._connection: T | None = connect(False)
        self._closed = False
        _all.add(self)

    def get(self) -> T:
        """Returns the connection of this process.

        Raises:
            NotReadyError: It was closed.
        """
        with self._lock:
            if self._closed:
                raise closed_error()
            if self._connection is None:
                self._connection = self._connect(True)
            return self._connection

    def close(self) -> T | None:
        """Refuses further uses; returns the connection to close, if there is one."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._closed = True
            return connection

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have held the old one
        if self._connection is not None:
            _inherited.append(self._connection)
            if self._abandon is not None:
                self._abandon(self._connection)
            self._connection = None


_all: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in [*_all]:
        connection._after_fork()


os.register_at_fork(after_in_child=_after_fork)


class LoopOwner:
    """Tells whether a connection of asyncio may be used: in the first event loop that used it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def check(self) -> None:
        """Checks that the connection is open, and belongs to the running event loop.

        Raises:
            NotReadyError: It was closed.
            InvalidInputError: It belongs to another event loop.
        """
        if self._closed:
            raise closed_error()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidInputError(
                "it was first used in another event loop, to which its connections belong; make "
                "one client in each event loop, such as with `async with AsyncClient(...)` inside "
                "the function that `asyncio.run` runs",
                field="client",
            )

    def close(self) -> bool:
        """Refuses further uses; returns whether connections can be closed in the running loop."""
        self._closed = True
        return self._loop in (None, asyncio.get_running_loop()) or self._loop.is_closed()
