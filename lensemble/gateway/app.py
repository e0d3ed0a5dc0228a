"""Assembles the gateway: settings -> connections, routes and guard as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

import lensemble
from lensemble.gateway.access.body_limits import BodyLimits
from lensemble.gateway.access.guard import OPEN_PATHS, Guard
from lensemble.gateway.backends import Backends
from lensemble.gateway.error_handlers import add_error_handlers
from lensemble.gateway.inputs.item_reader import ItemReader
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.inputs.remote_pictures import PictureFetcher
from lensemble.gateway.observability.metrics import Metrics
from lensemble.gateway.observability.tracing import Tracer
from lensemble.gateway.responses import ErrorResponse
from lensemble.gateway.routes import chat, docs, embeddings, items, rag, search, status
from lensemble.gateway.routes.openapi import add_security
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import AsyncClient
from lensemble_contract.errors import InvalidInputError

_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorResponse}}


class Gateway:
    """The gateway as an ASGI application.

    Args:
        settings: settings of the gateway.
        picture_fetcher: fetches pictures from other hosts; None makes one from the settings.
        triton: client of Triton; None makes one from the settings.

    Attributes:
        api: the FastAPI application behind the guard.

    Raises:
        InvalidInputError: A setting is unusable.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        picture_fetcher: PictureFetcher | None = None,
        triton: AsyncClient | None = None,
    ) -> None:
        require_keys_beyond_loopback(settings)
        self._backends = Backends(settings, triton)
        self._picture_fetcher = picture_fetcher or PictureFetcher(
            settings.remote_hosts, settings.remote_bytes, settings.remote_s
        )
        self._metrics, self._tracer = Metrics(), Tracer(settings)
        self._limits = BodyLimits(settings, self._metrics)
        self.api = self._build_api(settings)
        self._guard = Guard(self.api, settings, self._metrics, self._tracer, self._limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one HTTP request, or one connection of another type that ASGI defines."""
        await self._guard(scope, receive, send)

    def _build_api(self, settings: GatewaySettings) -> FastAPI:
        api = FastAPI(
            title="Lensemble",
            version=lensemble.__version__,
            description="Qwen3-VL multimodal embeddings and search, in OpenAI's shape.",
            lifespan=self._lifespan,
            responses=_ERROR_RESPONSES,
            docs_url=None,  # `routes.docs` has a page that loads nothing from other hosts
            redoc_url=None,
            redirect_slashes=False,
        )
        item_reader = ItemReader(self._picture_fetcher, settings.items)
        body_reader = BodyReader(settings.items)
        api.include_router(embeddings.router(self._backends, item_reader, body_reader))
        api.include_router(search.router(self._backends, item_reader, body_reader))
        api.include_router(items.router(self._backends, item_reader, body_reader))
        api.include_router(chat.router(self._backends, body_reader))
        api.include_router(rag.router(self._backends, item_reader, body_reader, settings))
        api.include_router(status.router(self._backends, self._metrics, self._limits))
        api.include_router(docs.router())
        add_security(api, OPEN_PATHS, required=settings.keys is not None)
        add_error_handlers(api)
        return api

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        await self._backends.close()
        await self._picture_fetcher.close()
        self._tracer.close()


def require_keys_beyond_loopback(settings: GatewaySettings) -> None:
    """Refuses settings with which other machines could send requests without a key.

    Raises:
        InvalidInputError: The host is not a loopback address, and no file of keys is set.
    """
    if settings.keys is None and settings.host not in _LOOPBACK_HOSTS:
        raise InvalidInputError(
            f"{settings.host!r} is open to other machines, and LENSEMBLE_GATEWAY_KEYS is not set; "
            "make keys with `lensemble keys add`, or listen on 127.0.0.1",
            field="LENSEMBLE_GATEWAY_HOST",
        )
