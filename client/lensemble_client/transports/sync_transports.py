"""`Transport`, the interface through which `Client` sends requests, for gRPC and HTTP.

In this package, only the modules of this folder use `tritonclient`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from lensemble_client import request_headers
from lensemble_client.transports.async_transports import AsyncHttpTransport
from lensemble_client.transports.wire import (
    GRPC_CHANNEL,
    Parameters,
    answer_rows,
    request_inputs,
    request_outputs,
    translate_error,
    with_timeout,
)
from lensemble_contract import contract
from lensemble_contract.errors import NotReadyError
from lensemble_contract.items import Rows
from lensemble_contract.tls import Tls

__all__ = ["GrpcTransport", "HttpTransport", "Transport"]

_T = TypeVar("_T")


class Transport(Protocol):
    """Sends requests to a Triton server. Several threads may share one."""

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """Runs a model.

        Args:
            model: The model to run; all its `outputs` are requested.
            rows: Input name -> array (B, ...).
            parameters: Request parameters.
            timeout_s: Seconds after which the request fails.

        Returns:
            Output name -> array (B, ...).

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server reports that a model can serve now.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """

    def version(self, timeout_s: float) -> str:
        """Returns name and version of the server, such as `triton 2.51.0`.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """

    def close(self) -> None:
        """Closes the connections."""


class GrpcTransport:
    """Triton's gRPC protocol, the faster of the two.

    Args:
        address: `host:port`.
        tls: Certificates; None does not use TLS.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        import tritonclient.grpc as triton

        self._triton = triton
        options: Any = {} if tls is None else tls.grpc_options()
        self._client = triton.InferenceServerClient(
            address, channel_args=[*GRPC_CHANNEL], **options
        )

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        tensors = request_inputs(self._triton, model, rows)
        try:
            result = self._client.infer(
                model.name,
                tensors,
                outputs=request_outputs(self._triton, model),
                request_id=request_headers.request_id.get(),
                headers=request_headers.headers(),
                parameters=with_timeout(parameters, timeout_s),
                client_timeout=timeout_s,
            )
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return answer_rows(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except Exception as error:
            raise translate_error(error, timeout_s) from error

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        try:
            metadata = self._client.get_server_metadata(client_timeout=timeout_s)
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()


class HttpTransport:
    """The KServe v2 protocol over HTTP, with tensors in binary.

    All callers share one event loop in a background thread. So there are never more connections
    than running requests, however many threads have used the transport before.

    Args:
        address: `host:port`, without scheme.
        tls: Certificates; None does not use TLS.

    Raises:
        InvalidInputError: The certificates cannot be used.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        self._transport = AsyncHttpTransport(address, tls)
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        thread.start()
        # The finalizer also stops the thread if the transport is garbage-collected without `close`.
        self._finalizer = weakref.finalize(self, _close, self._transport, self._loop, thread)

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        return self._await(self._transport.infer(model, rows, parameters, timeout_s))

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return self._await(self._transport.ready(model, timeout_s))

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return self._await(self._transport.version(timeout_s))

    def close(self) -> None:
        """See `Transport.close`."""
        self._finalizer()

    def _await(self, coroutine: Coroutine[None, None, _T]) -> _T:
        """Runs a coroutine on the event loop and waits for its result.

        Raises:
            NotReadyError: The transport was closed.
        """
        if not self._finalizer.alive:
            coroutine.close()
            raise NotReadyError("the connection was closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except asyncio.CancelledError as error:
            raise NotReadyError("the connection was closed") from error
        finally:
            future.cancel()  # does something only if the caller was interrupted


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _close(
    transport: AsyncHttpTransport, loop: asyncio.AbstractEventLoop, thread: threading.Thread
) -> None:
    """Cancels running requests, closes the connections, and ends the loop and its thread."""
    asyncio.run_coroutine_threadsafe(_shut_down(transport, loop), loop)
    if thread is not threading.current_thread():  # the garbage collector may run in `thread`
        thread.join()


async def _shut_down(transport: AsyncHttpTransport, loop: asyncio.AbstractEventLoop) -> None:
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await transport.close()
    loop.stop()
