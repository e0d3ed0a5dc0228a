"""Cancels the work for a caller who has closed the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from lensemble_contract.errors import CancelledError

T = TypeVar("T")


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work, and cancels it if the caller closes the connection first.

    A cancelled request to Triton is removed from Triton's queues if it still waits there.

    Args:
        request: the request. Its body must have been read, because waiting for the end of the
            connection would consume the rest of it.
        work: coroutine that does the work.

    Raises:
        CancelledError: The caller closed the connection.
        LensembleError: The work raised it.
    """
    work_task = asyncio.ensure_future(work)
    disconnect_task = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((work_task, disconnect_task), return_when=asyncio.FIRST_COMPLETED)
        if not work_task.done():
            raise CancelledError("the caller closed the connection")
        return work_task.result()
    finally:
        work_task.cancel()
        disconnect_task.cancel()
        await asyncio.gather(work_task, disconnect_task, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
