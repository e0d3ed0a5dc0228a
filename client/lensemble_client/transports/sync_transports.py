"""`Transport`, the interface through which `Client` sends requests, for gRPC and HTTP.

In this package, only the modules of this folder use `tritonclient`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from lensemble_client import request_headers
from lensemble_client.transports.async_transports import AsyncHttpTransport
from lensemble_client.transports.ownership import PerProcess, closed_error
from lensemble_client.transports.wire import (
    Parameters,
    answer_rows,
    grpc_channel_options,
    limited,
    request_inputs,
    request_outputs,
    translate_error,
    with_timeout,
)
from lensemble_contract import contract
from lensemble_contract.items import Rows
from lensemble_contract.tls import Tls

__all__ = ["GrpcTransport", "HttpTransport", "Transport"]

_T = TypeVar("_T")

# Channels of a process share their connections to one address. In a forked process, those are the
# parent's.
_FORKED = (("grpc.use_local_subchannel_pool", 1),)


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
        channel = grpc_channel_options(address)
        self._client: PerProcess[Any] = PerProcess(
            lambda forked: triton.InferenceServerClient(
                address, channel_args=[*channel, *(_FORKED if forked else ())], **options
            )
        )

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        client = self._client.get()
        tensors = request_inputs(self._triton, model, rows)
        all_parameters = with_timeout(parameters, timeout_s)
        try:
            result = client.infer(
                model.name,
                tensors,
                outputs=request_outputs(self._triton, model),
                request_id=request_headers.request_id.get(),
                headers=request_headers.headers(),
                parameters=all_parameters,
                client_timeout=limited(timeout_s),
            )
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return answer_rows(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        client = self._client.get()
        try:
            return bool(client.is_model_ready(model, client_timeout=limited(timeout_s)))
        except Exception as error:
            raise translate_error(error, timeout_s) from error

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        client = self._client.get()
        try:
            metadata = client.get_server_metadata(client_timeout=limited(timeout_s))
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    def close(self) -> None:
        """See `Transport.close`."""
        if (client := self._client.close()) is not None:
            client.close()


class HttpTransport:
    """The KServe v2 protocol over HTTP, with tensors in binary.

    All callers of a process share one event loop in a background thread. So there are never more
    connections than running requests, however many threads have used the transport before.

    Args:
        address: `host:port`, without scheme.
        tls: Certificates; None does not use TLS.

    Raises:
        InvalidInputError: The certificates cannot be used.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        self._background = PerProcess(
            lambda _: _BackgroundLoop(AsyncHttpTransport(address, tls)), _BackgroundLoop.abandon
        )

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        return self._await(lambda http: http.infer(model, rows, parameters, timeout_s))

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return self._await(lambda http: http.ready(model, timeout_s))

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        return self._await(lambda http: http.version(timeout_s))

    def close(self) -> None:
        """See `Transport.close`."""
        if (background := self._background.close()) is not None:
            background.close()

    def _await(self, call: Callable[[AsyncHttpTransport], Coroutine[None, None, _T]]) -> _T:
        """Runs a call on the event loop and waits for its result.

        Raises:
            NotReadyError: The transport was closed.
        """
        background = self._background.get()
        return background.wait_for(call(background.transport))


class _BackgroundLoop:
    """A transport with an event loop of its own, which runs in a thread.

    Args:
        transport: Transport of this process.

    Attributes:
        transport: The transport.
    """

    def __init__(self, transport: AsyncHttpTransport) -> None:
        self.transport = transport
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        thread.start()
        # The finalizer also stops the thread if the client is garbage-collected without `close`.
        self._finalizer = weakref.finalize(self, _close, transport, self._loop, thread)

    def wait_for(self, coroutine: Coroutine[None, None, _T]) -> _T:
        """Runs a coroutine on the event loop and waits for its result.

        Raises:
            NotReadyError: The transport was closed.
        """
        if not self._finalizer.alive:
            coroutine.close()
            raise closed_error()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except asyncio.CancelledError as error:
            raise closed_error() from error
        finally:
            future.cancel()  # does something only if the caller was interrupted

    def close(self) -> None:
        """Ends the loop and its thread."""
        self._finalizer()

    def abandon(self) -> None:
        """Leaves the loop of the parent process alone, in a process that was forked."""
        self._finalizer.detach()


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
