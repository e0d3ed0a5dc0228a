"""The chat server behind the gateway: turns go on to it, and its answers come back as they are."""

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

_CONNECT_S = 10.0
_COMPLETIONS = "/chat/completions"


class ChatServer:
    """Any server with OpenAI's `POST /chat/completions`.

    Args:
        settings: Of the gateway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._url, self._key, self._model = settings.chat, settings.chat_key, settings.chat_model
        self._silent_s = settings.chat_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def body(self, raw: bytes) -> dict[str, Any]:
        """A turn as it was sent, with the model's name where it has none.

        Raises:
            InvalidInputError: It is not a JSON object, or names no model and none is set.
        """
        try:
            said = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise InvalidInputError(f"the body is not JSON: {error}") from error
        if not isinstance(said, dict):
            raise InvalidInputError(f"{str(said)[:60]!r}; expected a JSON object")
        return self.with_model(said)

    def with_model(self, turn: dict[str, Any]) -> dict[str, Any]:
        """The turn, with the model's name where it has none.

        Raises:
            InvalidInputError: No model is set either.
            RefusedError: There is no chat server.
        """
        self._check()
        if not turn.get("model"):
            if self._model is None:
                raise InvalidInputError(
                    "it is missing, and LENSEMBLE_GATEWAY_CHAT_MODEL is not set", field="model"
                )
            turn["model"] = self._model
        return turn

    def _check(self) -> str:
        """The base URL.

        Raises:
            RefusedError: None is set.
        """
        if self._url is None:
            raise RefusedError(
                HTTPStatus.NOT_FOUND,
                "no_chat_server",
                "no chat server is set; start the gateway with LENSEMBLE_GATEWAY_CHAT",
            )
        return self._url.rstrip("/")

    async def whole(self, turn: dict[str, Any]) -> tuple[int, bytes, str]:
        """The answer to a turn: status, body, content type.

        Raises:
            NotReadyError: The chat server cannot be reached.
            DeadlineExceededError: It is silent for too long.
            RefusedError: None is set, it refuses the gateway itself, or it fails.
        """
        async with self._asked(turn) as answer:
            return answer.status, await answer.read(), answer.content_type

    async def forward(self, turn: dict[str, Any], before: bytes = b"") -> Response:
        """The answer to a turn as a response, streamed if the turn asks for that.

        Args:
            turn: Body of the request.
            before: Bytes of a stream that go before the chat server's own.

        Raises:
            NotReadyError: The chat server cannot be reached.
            DeadlineExceededError: It is silent for too long.
            RefusedError: None is set, it refuses the gateway itself, or it fails.
        """
        if not turn.get("stream"):
            status, body, kind = await self.whole(turn)
            return Response(body, status, media_type=kind)
        asked = self._asked(turn)
        answer = await asked.__aenter__()
        if answer.status != HTTPStatus.OK:
            try:
                return Response(await answer.read(), answer.status, media_type=answer.content_type)
            finally:
                await asked.__aexit__(None, None, None)
        return StreamingResponse(_stream(asked, answer, before), media_type="text/event-stream")

    @asynccontextmanager
    async def _asked(self, turn: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._check() + _COMPLETIONS
        if self._session is None:  # belongs to the loop that runs now
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_S, sock_read=self._silent_s
                )
            )
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        try:
            async with self._session.post(
                url,
                data=orjson.dumps(turn),
                headers=headers,
                allow_redirects=False,
            ) as answer:
                if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    raise RefusedError(
                        HTTPStatus.BAD_GATEWAY,
                        "chat_server_refused",
                        "the chat server refuses the gateway's key (LENSEMBLE_GATEWAY_CHAT_KEY)",
                    )
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise RefusedError(
                        HTTPStatus.BAD_GATEWAY,
                        "chat_server_failed",
                        f"the chat server failed with status {answer.status}; its log says why",
                    )
                yield answer
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise DeadlineExceededError(
                f"the chat server was silent for {self._silent_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            # Where it stands is none of the caller's business.
            raise NotReadyError(
                f"the chat server cannot be reached ({type(error).__name__})"
            ) from error


async def _stream(
    asked: AbstractAsyncContextManager[aiohttp.ClientResponse],
    answer: aiohttp.ClientResponse,
    before: bytes,
) -> AsyncIterator[bytes]:
    """What comes, as it comes; when the caller goes away, the chat server is told."""
    try:
        if before:
            yield before
        async for chunk in answer.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
        # The status is long sent: the stream ends without its last event, which says it.
        return
    finally:
        await asked.__aexit__(None, None, None)
