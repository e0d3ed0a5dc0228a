"""Checks of the caller: API key, scope, and number of requests per minute."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Scope

from lensemble.gateway.access.keys import METRICS, READ, WRITE, Key, KeyFile
from lensemble.gateway.access.rate_limiter import RateLimiter
from lensemble.gateway.errors import RefusedError, retry_after
from lensemble.gateway.observability.request_stats import RequestStats
from lensemble.gateway.settings import GatewaySettings

# Requests to paths with this prefix change the index, unless their method only reads.
WRITE_PATH_PREFIX = "/v1/items"


class CallerChecks:
    """Checks the caller's key, its scope, and the number of the caller's requests.

    Args:
        settings: settings of the gateway.

    Raises:
        InvalidInputError: The file of keys is unusable.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._key_file = KeyFile(settings.keys) if settings.keys is not None else None
        self._rate_limiter = RateLimiter(settings.per_minute)
        self._per_minute = settings.per_minute

    def check(self, scope: Scope, headers: Headers, stats: RequestStats) -> None:
        """Checks one request.

        Args:
            scope: ASGI scope of the request.
            headers: headers of the request.
            stats: statistics of the request, into which the name of the key is written.

        Raises:
            RefusedError: The key is unknown or lacks the scope, or the rate limit is exceeded.
            InvalidInputError: The file of keys has become unusable.
        """
        caller = (scope.get("client") or ("",))[0]  # without keys, each address has its own limit
        if self._key_file is not None:
            key = self._authenticate(headers, self._key_file)
            stats.key = caller = key.name
            needed = required_scope(scope["method"], scope["path"])
            if not key.allows(needed):
                raise RefusedError(
                    HTTPStatus.FORBIDDEN,
                    "insufficient_scope",
                    f"the key {key.name!r} has the scope {key.scope}; this request needs {needed}",
                )
        if wait_s := self._rate_limiter.wait_s(caller):
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limited",
                f"more than {self._per_minute} requests in a minute; try again later",
                retry_after(wait_s),
            )

    def _authenticate(self, headers: Headers, key_file: KeyFile) -> Key:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        key = key_file.find(credentials.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "invalid_api_key",
                "the API key is missing or unknown; send `Authorization: Bearer KEY`",
                {"WWW-Authenticate": "Bearer"},
            )
        return key


def required_scope(method: str, path: str) -> str:
    """The scope that a key needs for a request."""
    if path == "/metrics":
        return METRICS
    writes = path.startswith(WRITE_PATH_PREFIX) and method not in ("GET", "HEAD", "OPTIONS")
    return WRITE if writes else READ
