"""The wire for asyncio: as `transport`, with calls that are awaited and can be cancelled."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from lensemble_client import contract
from lensemble_client.items import Rows
from lensemble_client.wire import Parameters, arrays, inputs, translated


class AsyncTransport(Protocol):
    """Carries calls to a Triton server, on one event loop."""

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""

    async def close(self) -> None:
        """Closes the connections."""


class AsyncGrpcTransport:
    """Triton's gRPC protocol.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        import tritonclient.grpc.aio as triton

        self._triton, self._address = triton, address
        self._opened: Any = None

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        made = inputs(self._triton, model, rows)
        try:
            result = await self._client().infer(
                model.name, made, parameters=dict(parameters), client_timeout=timeout_s
            )
        except Exception as error:
            raise translated(error, timeout_s) from error
        return arrays(result, model.outputs)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        try:
            return bool(await self._client().is_model_ready(model, client_timeout=timeout_s))
        except Exception as error:
            raise translated(error, timeout_s) from error

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        try:
            metadata = await self._client().get_server_metadata(client_timeout=timeout_s)
        except Exception as error:
            raise translated(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        if self._opened is not None:
            await self._opened.close()

    def _client(self) -> Any:
        if self._opened is None:  # belongs to the loop that runs now
            self._opened = self._triton.InferenceServerClient(self._address)
        return self._opened


class AsyncHttpTransport:
    """The KServe v2 protocol over HTTP, tensors in binary.

    Args:
        address: `host:port`, without scheme.
    """

    def __init__(self, address: str) -> None:
        import tritonclient.http.aio as triton

        self._triton, self._address = triton, address
        self._opened: Any = None

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        outputs = [
            self._triton.InferRequestedOutput(tensor.name, binary_data=True)
            for tensor in model.outputs
        ]
        result = await self._call(
            "infer",
            timeout_s,
            model.name,
            inputs(self._triton, model, rows),
            outputs=outputs,
            parameters=dict(parameters),
        )
        return arrays(result, model.outputs)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return bool(await self._call("is_model_ready", timeout_s, model))

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        metadata = await self._call("get_server_metadata", timeout_s)
        return f"{metadata['name']} {metadata['version']}"

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        if self._opened is not None:
            await self._opened.close()

    async def _call(self, method: str, timeout_s: float, *args: Any, **options: Any) -> Any:
        """Calls a method of the client; the timeout is for all of it.

        The library's own limits are for each read and write, which a slow answer in pieces passes,
        and for connections at a time, of which callers say how many they want.
        """
        if self._opened is None:  # belongs to the loop that runs now
            self._opened = self._triton.InferenceServerClient(
                self._address, conn_limit=0, conn_timeout=None
            )
        try:
            return await asyncio.wait_for(
                getattr(self._opened, method)(*args, **options), timeout_s
            )
        except Exception as error:
            raise translated(error, timeout_s) from error
