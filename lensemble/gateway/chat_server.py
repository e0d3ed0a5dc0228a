"""Sends chat requests to the chat server, and returns its responses unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from lensemble.gateway.errors import RefusedError
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import DeadlineExceededError, InvalidInputError, NotReadyError

# Time limit for opening a connection to the chat server.
_CONNECT_S = 10.0
_COMPLETIONS = "/chat/completions"


class ChatServer:
    """Any server with OpenAI's `POST /chat/completions`.

    Args:
        settings: settings of the gateway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._url, self._key, self._model = settings.chat, settings.chat_key, settings.chat_model
        self._max_silence_s = settings.chat_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def parse(self, body: bytes) -> dict[str, Any]:
        """Parses the body of a chat request, and adds the default model if it names none.

        Raises:
            InvalidInputError: The body is not a JSON object, or there is no model to use.
            RefusedError: No chat server is set.
        """
        try:
            chat_request = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInputError(f"the body is not JSON: {error}") from error
        if not isinstance(chat_request, dict):
            raise InvalidInputError(f"{str(chat_request)[:60]!r}; expected a JSON object")
        return self.with_model(chat_request)

    def with_model(self, chat_request: dict[str, Any]) -> dict[str, Any]:
        """Adds the default model to a chat request that names none, and returns the request.

        Raises:
            InvalidInputError: The request names no model, and no default is set.
            RefusedError: No chat server is set.
        """
        self._base_url()
        if not chat_request.get("model"):
            if self._model is None:
                raise InvalidInputError(
                    "it is missing, and LENSEMBLE_GATEWAY_CHAT_MODEL is not set; name a model",
                    field="model",
                )
            chat_request["model"] = self._model
        return chat_request

    async def complete(self, chat_request: dict[str, Any]) -> tuple[int, bytes, str]:
        """The whole response to a chat request: status, body, content type.

        Raises:
            NotReadyError: The chat server is unreachable.
            DeadlineExceededError: It accepts no connection within 10 s, or sends nothing for
                `chat_s` seconds.
            RefusedError: No chat server is set, it refuses the gateway's key, or it fails with a
                status of 500 or above.
        """
        async with self._post(chat_request) as response:
            return response.status, await response.read(), response.content_type

    async def forward(self, chat_request: dict[str, Any], first_event: bytes = b"") -> Response:
        """The chat server's response as a response of the gateway.

        Args:
            chat_request: body of the request; with `"stream": true` the response is streamed.
            first_event: bytes that a stream starts with, before the chat server's own.

        Raises:
            NotReadyError: The chat server is unreachable.
            DeadlineExceededError: It accepts no connection within 10 s, or sends nothing for
                `chat_s` seconds.
            RefusedError: No chat server is set, it refuses the gateway's key, or it fails with a
                status of 500 or above.
        """
        if not chat_request.get("stream"):
            status, body, content_type = await self.complete(chat_request)
            return Response(body, status, media_type=content_type)
        # This is no `with` block, because a stream is sent after this method has returned. Then
        # `_stream` closes the connection.
        response_context = self._post(chat_request)
        response = await response_context.__aenter__()
        if response.status != HTTPStatus.OK:
            try:
                body = await response.read()
                return Response(body, response.status, media_type=response.content_type)
            finally:
                await response_context.__aexit__(None, None, None)
        return StreamingResponse(
            _stream(response_context, response, first_event), media_type="text/event-stream"
        )

    def _base_url(self) -> str:
        if self._url is None:
            raise RefusedError(
                HTTPStatus.NOT_FOUND,
                "no_chat_server",
                "no chat server is set; start the gateway with LENSEMBLE_GATEWAY_CHAT",
            )
        return self._url.rstrip("/")

    @asynccontextmanager
    async def _post(self, chat_request: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._base_url() + _COMPLETIONS
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        try:
            async with self._open_session().post(
                url, data=orjson.dumps(chat_request), headers=headers, allow_redirects=False
            ) as response:
                _raise_for_status(response.status)
                yield response
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the chat server accepted no connection within {_CONNECT_S:g} s, or sent nothing "
                f"for {self._max_silence_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            # The error's text contains the chat server's address, which callers must not see.
            raise NotReadyError(
                f"the chat server is unreachable ({type(error).__name__})"
            ) from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, because it belongs to the running event loop
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=self._max_silence_s
            )
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session


def _raise_for_status(status: int) -> None:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise RefusedError(
            HTTPStatus.BAD_GATEWAY,
            "chat_server_refused",
            "the chat server refuses the gateway's key; set LENSEMBLE_GATEWAY_CHAT_KEY to a valid "
            "one",
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RefusedError(
            HTTPStatus.BAD_GATEWAY,
            "chat_server_failed",
            f"the chat server failed with status {status}; its log says why",
        )


async def _stream(
    response_context: AbstractAsyncContextManager[aiohttp.ClientResponse],
    response: aiohttp.ClientResponse,
    first_event: bytes,
) -> AsyncIterator[bytes]:
    """The bytes of a stream as they arrive; closes the connection when the caller goes away."""
    try:
        if first_event:
            yield first_event
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
        # The status has been sent already. The caller notices the failure, because the last event
        # of the stream is missing.
        return
    finally:
        await response_context.__aexit__(None, None, None)
