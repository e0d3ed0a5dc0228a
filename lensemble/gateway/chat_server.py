"""Sends chat requests to the chat server, and checks its answers before they are passed on.

The chat server is another program, perhaps behind a proxy with pages of its own. So the time, the
size and the shape of an answer are limited: a completion in JSON, a stream of JSON events, or an
error in JSON. Anything else becomes status 502 with the reason.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from lensemble.gateway.errors import RefusedError, error_object
from lensemble.gateway.event_stream import EventStreamCheck
from lensemble.gateway.inputs.json_bodies import ValueCounter, pieces_of, run_off_loop
from lensemble.gateway.inputs.json_parser import parse_json
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import (
    DeadlineExceededError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
)

# Time limit for opening a connection to the chat server.
_CONNECT_S = 10.0
_COMPLETIONS = "/chat/completions"
_JSON = "application/json"
_EVENT_STREAM = "text/event-stream"
# JSON values in one answer. There are many in one with the log-probabilities of all tokens.
_MAX_VALUES = 1_000_000


class ChatServer:
    """Any server with OpenAI's `POST /chat/completions`.

    Args:
        settings: settings of the gateway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._url, self._key, self._model = settings.chat, settings.chat_key, settings.chat_model
        self._max_silence_s, self._total_s = settings.chat_s, settings.chat_total_s
        self._max_bytes = settings.chat_bytes
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

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

    async def complete(self, chat_request: dict[str, Any]) -> tuple[int, bytes]:
        """The whole answer to a chat request: 200 and a completion, or 4xx and an error, in JSON.

        Raises:
            NotReadyError: The chat server is unreachable, or breaks off its answer.
            DeadlineExceededError: It sends nothing for `chat_s` seconds.
            RefusedError: No chat server is set, or it refuses the gateway's key, fails, or answers
                with something else, with too much, or for too long.
        """
        try:
            async with asyncio.timeout(self._total_s), self._post(chat_request) as response:
                return response.status, await self._read(response)
        except TimeoutError as error:
            raise self._too_long() from error

    async def forward(self, chat_request: dict[str, Any], first_event: bytes = b"") -> Response:
        """The chat server's answer as a response of the gateway.

        Args:
            chat_request: body of the request; with `"stream": true` the response is streamed.
            first_event: bytes that a stream starts with, before the chat server's own.

        Raises:
            LensembleError: As for `complete`. After a stream has begun, its last event is the
                error.
        """
        if not chat_request.get("stream"):
            status, body = await self.complete(chat_request)
            return Response(body, status, media_type=_JSON)
        # This is no `with` block, because a stream is sent after this method has returned. Then
        # `_stream` closes the connection.
        response_context = self._post(chat_request)
        deadline = asyncio.get_running_loop().time() + self._total_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await response_context.__aenter__()
                if response.status == HTTPStatus.OK and response.content_type == _EVENT_STREAM:
                    return StreamingResponse(
                        self._stream(response_context, response, first_event, deadline),
                        media_type=_EVENT_STREAM,
                    )
                try:
                    body = await self._read(response)
                finally:
                    await response_context.__aexit__(None, None, None)
        except TimeoutError as error:
            raise self._too_long() from error
        if response.status == HTTPStatus.OK:
            raise chat_server_failed("answered with one completion; expected a stream of events")
        return Response(body, response.status, media_type=_JSON)

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
        # A compressed answer could be small and become too large.
        headers = {"Content-Type": _JSON, "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        body = await asyncio.to_thread(_to_json, chat_request)  # it may contain large pictures
        try:
            async with self._open_session().post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                _raise_for_status(response.status)
                yield response
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            # The error's text contains the chat server's address, which callers must not see.
            raise NotReadyError(
                f"the chat server is unreachable ({type(error).__name__})"
            ) from error
        except aiohttp.ServerTimeoutError as error:
            raise DeadlineExceededError(
                f"the chat server sent nothing for {self._max_silence_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotReadyError(
                f"the chat server broke off its answer ({type(error).__name__})"
            ) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of an answer that is not a stream.

        Raises:
            RefusedError: It is too large, or not JSON of the expected shape.
        """
        body, counter = bytearray(), ValueCounter(_MAX_VALUES)
        try:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self._max_bytes:
                    raise chat_server_failed(f"answered with more than {self._max_bytes} bytes")
                for piece in pieces_of(chunk):
                    counter.feed(piece)
            parsed = await run_off_loop(len(body), parse_json, bytes(body), counter.long_integer)
        except InvalidInputError as error:
            # The body is not quoted, because some servers repeat the key in it.
            raise chat_server_failed(
                f"answered with status {response.status}, and not with JSON "
                f"({response.content_type}; {error.message})"
            ) from error
        if response.status == HTTPStatus.OK and not _is_completion(parsed):
            raise chat_server_failed("answered with JSON that is no completion: no `choices`")
        return bytes(body)

    async def _stream(
        self,
        response_context: AbstractAsyncContextManager[aiohttp.ClientResponse],
        response: aiohttp.ClientResponse,
        first_event: bytes,
        deadline: float,
    ) -> AsyncIterator[bytes]:
        """The events of a stream; closes the connection when the caller goes away.

        The status has been sent already. So if the stream fails, its last event is the error.
        """
        check = EventStreamCheck(self._max_bytes)
        try:
            if first_event:
                yield first_event
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await response.content.readany()
                try:
                    for event in check.feed(chunk) if chunk else filter(None, [check.end()]):
                        yield event
                except ValueError as error:
                    raise chat_server_failed(f"sent {error}") from error
                if not chunk:
                    break
        except LensembleError as error:
            yield _error_event(error)
        except aiohttp.ServerTimeoutError:
            yield _error_event(
                DeadlineExceededError(f"the chat server sent nothing for {self._max_silence_s:g} s")
            )
        except TimeoutError:
            yield _error_event(self._too_long())
        except aiohttp.ClientError as error:
            yield _error_event(
                NotReadyError(f"the chat server broke off its answer ({type(error).__name__})")
            )
        finally:
            await response_context.__aexit__(None, None, None)

    def _too_long(self) -> RefusedError:
        return chat_server_failed(f"did not complete its answer within {self._total_s:g} s")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, because it belongs to the running event loop
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=self._max_silence_s
            )
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._session


def chat_server_failed(what: str) -> RefusedError:
    """The error of a chat server that did something which cannot be passed on.

    Args:
        what: what it did, such as `answered with status 500`.
    """
    return RefusedError(
        HTTPStatus.BAD_GATEWAY, "chat_server_failed", f"the chat server {what}; its log says why"
    )


def _raise_for_status(status: int) -> None:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise RefusedError(
            HTTPStatus.BAD_GATEWAY,
            "chat_server_refused",
            "the chat server refuses the gateway's key; set LENSEMBLE_GATEWAY_CHAT_KEY to a valid "
            "one",
        )
    if status != HTTPStatus.OK and status // 100 != 4:
        hint = "; LENSEMBLE_GATEWAY_CHAT may be a wrong address" if status // 100 == 3 else ""
        raise chat_server_failed(f"answered with status {status}{hint}")


def _is_completion(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("choices"), list)


def _error_event(error: LensembleError) -> bytes:
    return b"data: " + orjson.dumps({"error": error_object(error)}) + b"\n\n"


def _to_json(chat_request: dict[str, Any]) -> bytes:
    """The body of a request to the chat server, in which no value is changed.

    Raises:
        InvalidInputError: It is nested too deeply.
    """
    try:
        return orjson.dumps(chat_request)
    except TypeError:  # an integer beyond 64 bits, an unpaired surrogate, or deep nesting
        pass
    try:
        return json.dumps(chat_request).encode()
    except RecursionError as error:
        raise InvalidInputError("the body is nested too deeply; send a flatter one") from error
