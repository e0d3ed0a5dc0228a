"""The wire: one small interface over gRPC and over HTTP.

`Client` talks to a `Transport`; tests give it one of their own. Nothing of `tritonclient` is seen
above this file.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lensemble_client import contract
from lensemble_client.errors import DeadlineExceededError, LensembleError, NotReadyError, from_wire
from lensemble_client.items import Rows

_TRITON_DTYPES = {
    "STRING": "BYTES",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "FP32": "FP32",
}

Parameters = Mapping[str, str | int | bool]


class Transport(Protocol):
    """Carries one call to a Triton server. Safe to use from several threads."""

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """Runs a model.

        Args:
            model: What to run; its outputs are all asked for.
            rows: Input name -> array (B, ...).
            parameters: Request parameters.
            timeout_s: Seconds after which the call fails.

        Returns:
            Output name -> array (B, ...).

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server says that it can serve this model now."""

    def version(self, timeout_s: float) -> str:
        """Name and version of the server, such as `triton 2.51.0`."""

    def close(self) -> None:
        """Closes the connections."""


class GrpcTransport:
    """Triton's gRPC protocol: the faster of the two.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        import tritonclient.grpc as triton

        self._triton = triton
        # Answers and pictures may pass gRPC's default of 4 MiB; tritonclient lifts both limits.
        self._client = triton.InferenceServerClient(address)

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        inputs = _inputs(self._triton, model, rows)
        try:
            result = self._client.infer(
                model.name, inputs, parameters=dict(parameters), client_timeout=timeout_s
            )
        except Exception as error:
            raise _translated(error, timeout_s) from error
        return _arrays(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except Exception as error:
            raise _translated(error, timeout_s) from error

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        try:
            metadata = self._client.get_server_metadata(client_timeout=timeout_s)
        except Exception as error:
            raise _translated(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()


class HttpTransport:
    """The KServe v2 protocol over HTTP, tensors in binary.

    All threads share one event loop, on a thread of its own: connections and what the system holds
    for them are then as many as calls are under way, however many threads came and went.

    Args:
        address: `host:port`, without scheme.
    """

    def __init__(self, address: str) -> None:
        import tritonclient.http.aio as triton

        self._triton = triton
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
        thread.start()
        # Calls have a limit of their own, for all of a call, and callers say how many they want.
        self._client = asyncio.run_coroutine_threadsafe(
            _opened(triton, address), self._loop
        ).result()
        self._end = weakref.finalize(self, _close, self._client, self._loop, thread)

    def _call(self, method: str, timeout_s: float, *args: Any, **options: Any) -> Any:
        """Calls a method of the client; the timeout is for all of it."""
        if not self._end.alive:
            raise NotReadyError("the connection was closed")
        call = asyncio.wait_for(getattr(self._client, method)(*args, **options), timeout_s)
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except Exception as error:
            raise _translated(error, timeout_s) from error
        finally:
            future.cancel()  # if the caller was interrupted

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        inputs = _inputs(self._triton, model, rows)
        outputs = [
            self._triton.InferRequestedOutput(tensor.name, binary_data=True)
            for tensor in model.outputs
        ]
        result = self._call(
            "infer", timeout_s, model.name, inputs, outputs=outputs, parameters=dict(parameters)
        )
        return _arrays(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return bool(self._call("is_model_ready", timeout_s, model))

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        metadata = self._call("get_server_metadata", timeout_s)
        return f"{metadata['name']} {metadata['version']}"

    def close(self) -> None:
        """See `Transport.close`."""
        self._end()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _opened(triton: Any, address: str) -> Any:
    """A client that belongs to the running loop."""
    return triton.InferenceServerClient(address, conn_limit=0, conn_timeout=None)


def _close(client: Any, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Ends calls under way, connections, loop and thread."""
    asyncio.run_coroutine_threadsafe(_ended(client, loop), loop)
    if thread is not threading.current_thread():  # the collector may call from any thread
        thread.join()


async def _ended(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await client.close()
    loop.stop()


def _inputs(triton: Any, model: contract.Model, rows: Rows) -> list[Any]:
    """The rows as inputs of one of the two client libraries, in binary."""
    inputs = []
    for tensor in model.inputs:
        if tensor.name in rows:
            array = rows[tensor.name]
            value = triton.InferInput(tensor.name, list(array.shape), _TRITON_DTYPES[tensor.dtype])
            value.set_data_from_numpy(array)
            inputs.append(value)
    return inputs


def _arrays(result: Any, outputs: Sequence[contract.Tensor]) -> Rows:
    arrays: Rows = {}
    for tensor in outputs:
        array = result.as_numpy(tensor.name)
        if array is None:
            raise from_wire("INTERNAL", f"the answer has no output {tensor.name!r}")
        arrays[tensor.name] = np.asarray(array)
    return arrays


def _translated(error: Exception, timeout_s: float) -> LensembleError:
    """Maps what the two client libraries raise to the tree of `errors`."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        mapped = from_wire(error.status(), error.message() or "no message")
        if isinstance(mapped, DeadlineExceededError):
            return DeadlineExceededError(f"no answer within {timeout_s:g} s")
        return mapped
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(error, OSError):
        return NotReadyError(f"cannot reach the server: {error}")
    return NotReadyError(f"no Lensemble server answers there ({type(error).__name__}: {error})")
