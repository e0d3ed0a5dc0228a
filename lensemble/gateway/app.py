"""The application: routes, errors, documentation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import lensemble
from lensemble.gateway.access.guard import Guard
from lensemble.gateway.answers import ErrorAnswer, HealthAnswer, ModelsAnswer
from lensemble.gateway.errors import RefusedError, from_validation, headers_of, said
from lensemble.gateway.inputs.remote_pictures import Remote
from lensemble.gateway.observability.tracing import Tracer
from lensemble.gateway.routes import embeddings, items, rag, search
from lensemble.gateway.served_models import described
from lensemble.gateway.service import Service
from lensemble.gateway.settings import GatewaySettings
from lensemble_client import AsyncClient
from lensemble_contract import contract
from lensemble_contract.errors import (
    CancelledError,
    InternalError,
    InvalidInputError,
    LensembleError,
)

_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorAnswer}}
_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.REQUEST_TIMEOUT: "body_too_slow",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded",
}


class Gateway:
    """The gateway as an ASGI application.

    Args:
        settings: What it needs to know.
        remote: Fetches pictures; None makes one from the settings.
        client: Of Triton; None makes one from the settings.

    Attributes:
        api: The application behind the guard.

    Raises:
        InvalidInputError: A setting cannot be used.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        remote: Remote | None = None,
        client: AsyncClient | None = None,
    ) -> None:
        check(settings)
        service, tracer = Service(settings, remote, client), Tracer(settings)
        self.api = _api(service, tracer)
        self._guard = Guard(self.api, settings, service.metrics, tracer)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        await self._guard(scope, receive, send)


def check(settings: GatewaySettings) -> None:
    """Refuses settings that would let everybody in.

    Raises:
        InvalidInputError: It would listen beyond this machine without keys.
    """
    if settings.keys is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidInputError(
            f"{settings.host!r} is open to other machines, and LENSEMBLE_GATEWAY_KEYS is not set; "
            "make keys with `lensemble keys add`, or listen on 127.0.0.1",
            field="LENSEMBLE_GATEWAY_HOST",
        )


def _api(service: Service, tracer: Tracer) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()
        tracer.close()

    api = FastAPI(
        title="Lensemble",
        version=lensemble.__version__,
        description="Qwen3-VL multimodal embeddings and search, in OpenAI's shape.",
        lifespan=lifespan,
        responses=_ERRORS,
    )
    for part in (embeddings, search, items, rag):
        api.include_router(part.router(service))

    @api.get("/health", response_model=HealthAnswer, tags=["service"])
    async def health() -> Response:
        """Whether requests can be served now, and on what."""
        ready = await service.models.ready()
        serving = {about.name: about.labels for about in await service.models.serving()}
        labels = serving.get(contract.NATIVE, {}) if ready else {}
        content = {
            "status": "ok" if ready else "unavailable",
            "model_loaded": ready,
            "device": labels.get("device"),
            "gpu_name": labels.get("device_name") or None,
        }
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(content, status)

    @api.get("/v1/models", response_model=ModelsAnswer, tags=["service"])
    async def models() -> Response:
        """The embedders that serve."""
        serving = [described(about) for about in await service.models.serving()]
        return JSONResponse({"object": "list", "data": serving})

    @api.get("/metrics", tags=["service"])
    async def metrics() -> Response:
        """The gateway's own metrics, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @api.exception_handler(LensembleError)
    async def ours(_: Request, error: LensembleError) -> Response:
        return _problem(error, error.http_status, headers_of(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _problem(from_validation(error.errors()), HTTPStatus.BAD_REQUEST, {})

    @api.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        code = _CODES.get(HTTPStatus(error.status_code), "bad_request")
        refused = RefusedError(error.status_code, code, str(error.detail))
        return _problem(refused, error.status_code, dict(error.headers or {}))

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return await ours(_, CancelledError("the caller is gone"))

    @api.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        # Its text may hold anything; the guard writes it into the log, with the request's id.
        fault = InternalError("the gateway failed; its log says why")
        return _problem(fault, fault.http_status, {})

    return api


def _problem(error: LensembleError, status: int, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": said(error)}, status, headers)
