"""Fetches pictures from other hosts, without letting a caller reach hosts inside the network.

Fetching is off unless hosts are listed. A URL must use https, name a listed host, and lead to an
address of the public internet. The connection is opened to the address that was checked, which
prevents DNS rebinding (a name that resolves to another address a moment later). Each redirect is
checked like the first URL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from lensemble.gateway.inputs.public_addresses import (
    PrivateAddressError,
    PublicResolver,
    is_ip_address,
    is_public,
)
from lensemble_contract.errors import DeadlineExceededError, InvalidInputError, LensembleError

MAX_REDIRECTS = 3

_HTTPS_PORT = 443
_CHUNK_BYTES = 64 * 1024
_REDIRECT_STATUSES = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}


class PictureFetcher:
    """Fetches pictures from listed hosts.

    Args:
        hosts: `host` or `host:port`, in lower case; without hosts nothing is fetched.
        max_bytes: largest size of one picture.
        timeout_s: seconds for one picture, redirects included.
        is_allowed: function that tells whether a connection to an IP address is allowed.
        ssl: TLS context; None trusts the system's certificates.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        timeout_s: float,
        *,
        is_allowed: Callable[[str], bool] = is_public,
        ssl: Any = None,
    ) -> None:
        self._hosts = {host if ":" in host else f"{host}:{_HTTPS_PORT}" for host in hosts}
        self._max_bytes, self._timeout_s, self._is_allowed = max_bytes, timeout_s, is_allowed
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> bytes:
        """The encoded bytes of the picture at a URL.

        Raises:
            InvalidInputError: The URL may not be fetched, or the host sends no picture.
            DeadlineExceededError: The picture does not arrive in time.
        """
        if not self._hosts:
            raise InvalidInputError(
                f"{url[:80]!r}: this server fetches no pictures; send the picture as a data URL "
                "(data:image/jpeg;base64,...)"
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(url)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{url[:80]!r} did not arrive within {self._timeout_s:g} s"
            ) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _fetch(self, text: str) -> bytes:
        # yarl parses the URL once, for the check and for the request: two parsers could disagree
        # about the host.
        url = _parse_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            try:
                async with self._open_session().get(url, allow_redirects=False) as response:
                    if response.status not in _REDIRECT_STATUSES:
                        with _abort_on_error(response):
                            return await self._read_body(url, response)
                    location = response.headers.get("Location", "")
            except LensembleError:
                raise
            except PrivateAddressError as error:
                raise InvalidInputError(f"{_printable(url)}: {error}") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise InvalidInputError(
                    f"{_printable(url)} cannot be fetched ({type(error).__name__})"
                ) from error
            url = url.join(_parse_url(location))
        raise InvalidInputError(f"{_printable(url)}: more than {MAX_REDIRECTS} redirects")

    async def _read_body(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        if response.status != HTTPStatus.OK:
            raise InvalidInputError(f"{_printable(url)} gives status {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise InvalidInputError(
                    f"{_printable(url)} has more than {self._max_bytes} bytes; use a smaller file"
                )
        if not body:
            raise InvalidInputError(f"{_printable(url)} has 0 bytes; expected a picture")
        return bytes(body)

    def _check(self, url: URL) -> None:
        """Refuses a URL by its text, before a name is resolved or a connection opened.

        Raises:
            InvalidInputError: The scheme is not https, the URL has a user name or password, or the
                host is not listed or is an address that is not public.
        """
        host, port = (url.raw_host or "").rstrip(".").lower(), url.port or _HTTPS_PORT
        if url.scheme != "https":
            raise InvalidInputError(
                f"{_printable(url)}: expected https or a data URL (data:image/jpeg;base64,...)"
            )
        if url.user is not None or url.password is not None:
            raise InvalidInputError(f"the URL of {host!r} has a user name or password; remove them")
        if f"{host}:{port}" not in self._hosts:
            raise InvalidInputError(
                f"pictures are not fetched from host {host!r} (port {port}); send the picture as a "
                "data URL (data:image/jpeg;base64,...)"
            )
        # aiohttp does not ask the resolver about addresses, so they are checked here.
        if is_ip_address(host) and not self._is_allowed(host):
            raise InvalidInputError(f"{host!r} is not an address of the public internet")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, because it belongs to the running event loop
            ssl_option: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=PublicResolver(self._is_allowed),
                    use_dns_cache=False,
                    force_close=True,  # each request opens a connection, to an address just checked
                    **ssl_option,
                ),
                # A compressed body may be a decompression bomb, and pictures are compressed anyway.
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "lensemble"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


@contextlib.contextmanager
def _abort_on_error(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Aborts the connection on an error: a slow host could delay TLS's closing handshake."""
    try:
        yield
    except BaseException:
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()
        raise


def _parse_url(text: str) -> URL:
    try:
        return URL(text)
    except ValueError as error:
        raise InvalidInputError(f"{text[:80]!r} is not a URL: {error}") from error


def _printable(url: URL) -> str:
    """The URL for an error message, without user, password and query, which may be secrets."""
    return repr(str(url.with_user(None).with_query(None))[:80]) if url.absolute else repr(str(url))
