"""`AsyncTransport`, the interface through which `AsyncClient` sends requests, for gRPC and HTTP.

Unlike in `sync_transports`, requests are awaited and can be cancelled.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from lensemble_client import request_headers
from lensemble_client.transports.ownership import LoopOwner
from lensemble_client.transports.wire import (
    Parameters,
    answer_rows,
    grpc_channel_options,
    limited,
    message_of,
    request_inputs,
    request_outputs,
    translate_error,
    with_timeout,
)
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, from_wire
from lensemble_contract.items import Rows
from lensemble_contract.tls import Tls

# Header with the size in bytes of the JSON that precedes the binary tensors in a body (KServe v2
# protocol, "Binary Tensor Data Extension").
_JSON_SIZE = "Inference-Header-Content-Length"


class AsyncTransport(Protocol):
    """Sends requests to a Triton server. It belongs to one event loop."""

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
        tls: Certificates; None does not use TLS.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        import tritonclient.grpc.aio as triton

        self._triton, self._address = triton, address
        self._options: Any = {} if tls is None else tls.grpc_options()
        self._opened: Any = None
        self._owner = LoopOwner()

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        client = self._client()
        tensors = request_inputs(self._triton, model, rows)
        all_parameters = with_timeout(parameters, timeout_s)
        try:
            result = await client.infer(
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

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        client = self._client()
        try:
            return bool(await client.is_model_ready(model, client_timeout=limited(timeout_s)))
        except Exception as error:
            raise translate_error(error, timeout_s) from error

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        client = self._client()
        try:
            metadata = await client.get_server_metadata(client_timeout=limited(timeout_s))
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        if self._owner.close() and self._opened is not None:
            await self._opened.close()

    def _client(self) -> Any:
        self._owner.check()
        if self._opened is None:  # made here because it belongs to the running event loop
            self._opened = self._triton.InferenceServerClient(
                self._address, channel_args=grpc_channel_options(self._address), **self._options
            )
        return self._opened


class AsyncHttpTransport:
    """The KServe v2 protocol over HTTP, with tensors in binary.

    tritonclient writes and reads the bodies. aiohttp sends them, because tritonclient's own client
    for asyncio logs a warning for every body above 1 MiB.

    Args:
        address: `host:port`, without scheme.
        tls: Certificates; None does not use TLS.

    Raises:
        InvalidInputError: The certificates cannot be used.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        import aiohttp
        import tritonclient.http as triton

        self._aiohttp, self._triton = aiohttp, triton
        self._url = f"http{'' if tls is None else 's'}://{address}/v2"
        self._context: Any = True if tls is None else tls.client_context()
        self._session: Any = None
        self._owner = LoopOwner()

    async def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        body, json_size = self._triton.InferenceServerClient.generate_request_body(
            request_inputs(self._triton, model, rows),
            outputs=request_outputs(self._triton, model),
            request_id=request_headers.request_id.get(),
            parameters=with_timeout(parameters, timeout_s),
        )
        headers = request_headers.headers()
        if json_size is not None:
            headers[_JSON_SIZE] = str(json_size)
        answer, size = await self._call(
            "POST", f"models/{model.name}/infer", timeout_s, body, headers
        )
        try:
            result = self._triton.InferenceServerClient.parse_response_body(
                answer, header_length=None if size is None else int(size)
            )
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        return answer_rows(result, model.outputs)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        try:
            await self._call("GET", f"models/{model}/ready", timeout_s)
        except InvalidInputError:  # Triton answers 400 if the model is not ready
            return False
        return True

    async def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        answer, _ = await self._call("GET", "", timeout_s)
        try:
            metadata = json.loads(answer)
            return f"{metadata['name']} {metadata['version']}"
        except (ValueError, KeyError, TypeError) as error:
            raise translate_error(error, timeout_s) from error

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        if self._owner.close() and self._session is not None:
            await self._session.close()

    async def _call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, str | None]:
        """Sends one HTTP request; returns the answer's body and the header with its JSON size.

        The timeout is for the whole request. aiohttp's timeouts for single reads and writes would
        not end a request whose answer comes slowly in small pieces.
        """
        self._owner.check()
        if self._session is None:  # made here because it belongs to the running event loop
            self._session = self._aiohttp.ClientSession(
                # Connections are not limited, because callers limit their calls themselves.
                connector=self._aiohttp.TCPConnector(limit=0, ssl=self._context),
                timeout=self._aiohttp.ClientTimeout(total=None),
            )
        try:
            async with (
                asyncio.timeout(limited(timeout_s)),
                self._session.request(
                    method,
                    f"{self._url}/{path}".rstrip("/"),
                    data=None if body is None else io.BytesIO(body),
                    headers=headers,
                ) as response,
            ):
                answer = await response.read()
        except Exception as error:
            raise translate_error(error, timeout_s) from error
        if response.status != HTTPStatus.OK:
            raise from_wire(str(response.status), message_of(answer))
        return answer, response.headers.get(_JSON_SIZE)
