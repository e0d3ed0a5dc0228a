"""Asks an OpenAI-compatible server to describe pictures, with retries and errors.

The request is "Create chat completion" (`POST /chat/completions`) with only those fields that all
such servers support: `model`, `messages` with `image_url` parts, `max_tokens`, `temperature`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from lensemble.settings import Settings
from lensemble_client.retry import Retry, Tries
from lensemble_contract import contract
from lensemble_contract.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LensembleError,
    NotReadyError,
    OverloadedError,
)

logger = logging.getLogger(__name__)

RETRY = Retry(tries=3, first_wait_s=0.2, max_wait_s=2.0)
MAX_ANSWER_BYTES = 1024 * 1024

# HTTP statuses with which servers refuse a picture or the prompt.
_INPUT_REFUSED_STATUSES = (400, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Description:
    """A chat model's description of pictures.

    Attributes:
        text: the description; empty for items without pictures.
        tokens: tokens of question and answer that the server counted; 0 if it does not count.
    """

    text: str
    tokens: int


class ChatClient:
    """A client of one chat server, for use in one event loop.

    Args:
        settings: server, model, key, prompt and limits.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.chat_url is not None and settings.chat_model is not None
        self._url = f"{settings.chat_url.rstrip('/')}/chat/completions"
        parts = urlsplit(settings.chat_url)
        self._name = f"the chat server {parts.scheme}://{parts.netloc}"
        self._model, self._prompt = settings.chat_model, settings.describe_prompt
        self._max_tokens, self._timeout_s = settings.describe_tokens, settings.chat_timeout_s
        self._key = settings.chat_key
        self._free_slots = asyncio.Semaphore(settings.chat_concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def describe(self, text: str, jpegs: tuple[bytes, ...]) -> Description:
        """Asks what pictures show.

        Args:
            text: text of the item; empty if there is none.
            jpegs: at least one JPEG file.

        Raises:
            NotReadyError: The server cannot be reached, or fails.
            OverloadedError: The server has too much to do.
            DeadlineExceededError: The server does not answer in time.
            InvalidInputError: The server refuses the pictures.
            InternalError: The server refuses the key, the model or the request, or its answer has
                no description.
        """
        async with self._free_slots:
            tries = Tries(RETRY, self._timeout_s)
            while True:
                try:
                    # Asking twice has no side effect, so a retry is safe (`writes=False`).
                    return await self._post(self._request_body(text, jpegs), tries.left_s)
                except LensembleError as error:
                    await asyncio.sleep(tries.wait_after(error, writes=False))

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def _request_body(self, text: str, jpegs: tuple[bytes, ...]) -> bytes:
        question = f"{self._prompt}\n\nIts text: {text}" if text else self._prompt
        content: list[dict[str, Any]] = [
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"},
            }
            for jpeg in jpegs
        ]
        content.append({"type": "text", "text": question})
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
        return json.dumps(request).encode()

    async def _post(self, body: bytes, timeout_s: float) -> Description:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(timeout_s),
                allow_redirects=False,  # the key is for this server
            ) as response:
                if response.status != 200:
                    raise self._error_of_status(response.status)
                answer = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(answer) <= MAX_ANSWER_BYTES:
                    chunk = await response.content.readany()
                    if not chunk:
                        break
                    answer += chunk
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{self._name} did not answer within {self._timeout_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotReadyError(
                f"{self._name} cannot be reached ({type(error).__name__}); check that it runs"
            ) from error
        return self._parse(answer)

    def _error_of_status(self, status: int) -> LensembleError:
        """Returns the error of a status.

        It does not quote the answer, because some servers repeat the key in it.
        """
        problem = f"{self._name} answered with status {status}"
        if status == 429:
            return OverloadedError(f"{problem}: too many requests; try again later")
        if status >= 500:
            return NotReadyError(f"{problem}; see its log")
        if status in _INPUT_REFUSED_STATUSES:
            return InvalidInputError(
                f"{problem}: it refuses the picture, or this picture with the prompt; "
                "try another one",
                field=contract.IMAGE.name,
            )
        logger.error("%s", problem)
        hint = (
            "LENSEMBLE_CHAT_KEY" if status in (401, 403) else "LENSEMBLE_CHAT_URL and _CHAT_MODEL"
        )
        return InternalError(f"{problem}; see {hint}")

    def _parse(self, answer: bytes) -> Description:
        if len(answer) > MAX_ANSWER_BYTES:
            raise InternalError(f"{self._name} answered with more than {MAX_ANSWER_BYTES} bytes")
        try:
            completion = json.loads(answer)
            text = completion["choices"][0]["message"]["content"]
            usage = completion.get("usage")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InternalError(
                f"{self._name} answered with something other than a chat completion"
            ) from error
        text = text.strip() if isinstance(text, str) else ""
        if not text:
            raise InternalError(f"{self._name} gave an empty description")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or not 0 <= tokens < 2**31:
            tokens = 0
        return Description(text.encode("utf-8", "replace").decode(), tokens)
