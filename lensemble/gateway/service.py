"""What the routes share: the client of Triton, and how items go through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response

from lensemble.gateway.chat_server import ChatServer
from lensemble.gateway.errors import placed
from lensemble.gateway.inputs.items import Inputs
from lensemble.gateway.inputs.remote_pictures import Remote
from lensemble.gateway.observability.telemetry import Metrics, Trace
from lensemble.gateway.served_models import Models
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import AsyncClient
from lensemble_client.calls import Call, Measured, measured
from lensemble_contract.errors import CancelledError, LensembleError
from lensemble_contract.items import Item

T = TypeVar("T")


class Service:
    """The gateway's connections; one per process.

    Args:
        settings: Of the gateway.
        remote: Fetches pictures; None makes one from the settings.
        client: Of Triton; None makes one from the settings.

    Attributes:
        client: Of Triton.
        inputs: Makes items.
        models: What serves.
        chat: The chat server.
        metrics: The gateway's own.

    Raises:
        InvalidInputError: An address cannot be one.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        remote: Remote | None = None,
        client: AsyncClient | None = None,
    ) -> None:
        self.settings = settings
        self.client = client or AsyncClient(
            settings.triton, tls=settings.triton_tls, timeout_s=settings.timeout_s
        )
        self._remote = remote or Remote(
            settings.remote_hosts, settings.remote_bytes, settings.remote_s
        )
        self.inputs = Inputs(self._remote, settings.items)
        self.models = Models(self.client, settings.metrics)
        self.chat = ChatServer(settings)
        self.metrics = Metrics()

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()
        await self._remote.close()
        await self.models.close()
        await self.chat.close()

    async def run(
        self,
        items: Sequence[Item | LensembleError],
        make: Callable[[list[Item]], Call[list[T]]],
        trace: Trace,
    ) -> list[Measured[T] | LensembleError]:
        """One result for each item, in order; an error keeps its place.

        Args:
            items: Items, or what was wrong with them.
            make: Items -> the call that gives a result for each.
            trace: Of the request.

        Returns:
            Results or errors; errors say the place of their item.

        Raises:
            LensembleError: The first one, if all failed.
        """
        sound = [item for item in items if isinstance(item, Item)]
        trace.items += len(items)
        trace.pictures += sum(len(item.images) for item in sound)
        done = await self.client.run_many(
            sound,
            lambda some: measured(make(some)),
            # A lone item is refused at once; many may be each other's load.
            patient=len(sound) > 1,
        )
        if any(not isinstance(one, LensembleError) for one in done):
            self.models.heard()
        ran = iter(done)
        found = [item if isinstance(item, LensembleError) else next(ran) for item in items]
        trace.note(found)
        results = [
            placed(one, f"input[{n}]") if isinstance(one, LensembleError) else one
            for n, one in enumerate(found)
        ]
        errors = [one for one in found if isinstance(one, LensembleError)]
        if len(errors) == len(found):
            # Of an only item, the place says nothing.
            raise errors[0] if len(errors) == 1 else placed(errors[0], "input[0]")
        return results


def trace_of(request: Request) -> Trace:
    """What is known of the request."""
    trace: Trace = request.state.trace
    return trace


class Timed:
    """Notes how long its block took as a stage of the request."""

    def __init__(self, trace: Trace, stage: str) -> None:
        self._trace, self._stage, self._start = trace, stage, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._trace.took(self._stage, (time.perf_counter() - self._start) * 1000)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does the work unless the caller goes away first; then the work is cancelled.

    Triton is told, and drops what still waits in its queues.

    Raises:
        CancelledError: The caller is gone.
        LensembleError: What the work raises.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CancelledError("the caller is gone")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def answer(content: dict[str, Any]) -> Response:
    """JSON; NumPy's arrays become lists without a detour over Python's floats."""
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


def usage(results: Sequence[object]) -> dict[str, int]:
    """Tokens of all results, as OpenAI counts them."""
    tokens = sum(one.tokens for one in results if isinstance(one, Measured))
    return {"prompt_tokens": tokens, "total_tokens": tokens}
