"""The HTTP status, headers and body for each exception that a route raises."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lensemble.gateway.errors import (
    RefusedError,
    error_headers,
    error_object,
    from_validation_errors,
)
from lensemble_contract.errors import CancelledError, InternalError, LensembleError

# Error codes for the statuses that FastAPI, Starlette and the body limits raise as HTTPException.
CODE_OF_STATUS = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.REQUEST_TIMEOUT: "body_too_slow",
    HTTPStatus.TOO_MANY_REQUESTS: "overloaded",
}


def add_error_handlers(api: FastAPI) -> None:
    """Makes the application answer every exception with an error in OpenAI's shape."""

    @api.exception_handler(LensembleError)
    async def handle_lensemble_error(_: Request, error: LensembleError) -> Response:
        return _error_response(error, error.http_status, error_headers(error))

    @api.exception_handler(RequestValidationError)
    async def handle_validation_error(_: Request, error: RequestValidationError) -> Response:
        return _error_response(from_validation_errors(error.errors()), HTTPStatus.BAD_REQUEST)

    @api.exception_handler(HTTPException)
    async def handle_http_exception(_: Request, error: HTTPException) -> Response:
        code = CODE_OF_STATUS.get(HTTPStatus(error.status_code), "bad_request")
        refused = RefusedError(error.status_code, code, str(error.detail))
        return _error_response(refused, error.status_code, error.headers)

    @api.exception_handler(ClientDisconnect)
    async def handle_disconnect(_: Request, __: ClientDisconnect) -> Response:
        cancelled = CancelledError("the caller closed the connection")
        return _error_response(cancelled, cancelled.http_status)

    @api.exception_handler(Exception)
    async def handle_unexpected(_: Request, __: Exception) -> Response:
        # The exception's text may contain anything, so it goes only into the log. The guard writes
        # it there, with the request's id.
        internal = InternalError("the gateway failed; its log says why")
        return _error_response(internal, internal.http_status)


def _error_response(
    error: LensembleError, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse({"error": error_object(error)}, status, dict(headers or {}))
