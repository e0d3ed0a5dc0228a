"""Pictures from other hosts: off unless hosts are listed, and then never from inside the network.

A URL is fetched over https, from a listed host, at an address of the public internet. The address
that was checked is the one that is connected to, so a name that resolves otherwise a moment later
changes nothing; each redirect is checked as the first URL was.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lensemble_contract.errors import DeadlineExceededError, InvalidInputError, LensembleError

REDIRECTS = 3
"""At most so many, one after the other."""

_PORT = 443
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_LOCAL = tuple(
    ipaddress.ip_network(one)
    for one in ("::/96", "64:ff9b:1::/48")  # IPv4-compatible (RFC 4291), local NAT64 (RFC 8215)
)
_INSIDE_CLOUDS = {ipaddress.ip_address("168.63.129.16")}
"""Public by its number, but Azure's own service for its machines."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever way it is written.

    IPv4 addresses inside IPv6 ones (mapped, NAT64, 6to4) count as what they lead to; Teredo is not
    public, as where it leads cannot be told.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
        elif (
            found.teredo is not None
            or found.is_site_local
            or any(found in network for network in _LOCAL)
        ):
            return False
    return found.is_global and not found.is_multicast and found not in _INSIDE_CLOUDS


class Remote:
    """Fetches pictures.

    Args:
        hosts: `host` or `host:port`, lower case; only from these, and from none if there are none.
        most_bytes: Of one picture.
        timeout_s: For one picture, redirects included.
        allowed: Whether an IP address may be connected to.
        ssl: TLS context; None takes the system's certificates.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        most_bytes: int,
        timeout_s: float,
        *,
        allowed: Callable[[str], bool] = is_public,
        ssl: Any = None,
    ) -> None:
        self._hosts = {host if ":" in host else f"{host}:{_PORT}" for host in hosts}
        self._most, self._timeout_s, self._allowed = most_bytes, timeout_s, allowed
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> bytes:
        """The bytes of a picture.

        Raises:
            InvalidInputError: It may not be fetched, or the host gives no picture.
            DeadlineExceededError: The host takes too long.
        """
        if not self._hosts:
            raise InvalidInputError(
                f"{url[:80]!r}; this server fetches no pictures; send it as a data URL "
                "(data:image/jpeg;base64,...)"
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(url)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{url[:80]!r} did not come within {self._timeout_s:g} s"
            ) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _follow(self, said: str) -> bytes:
        # One reader of URLs for the check and for the request: two may disagree on the host.
        url = _read_url(said)
        for _ in range(REDIRECTS + 1):
            self._check(url)
            try:
                async with self._opened().get(url, allow_redirects=False) as answer:
                    if answer.status not in _MOVED:
                        with _cut_off(answer):
                            return await self._read(url, answer)
                    moved = answer.headers.get("Location", "")
            except LensembleError:
                raise
            except _NotAllowedError as error:
                raise InvalidInputError(f"{_shown(url)}: {error}") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise InvalidInputError(
                    f"{_shown(url)} cannot be fetched ({type(error).__name__})"
                ) from error
            url = url.join(_read_url(moved))
        raise InvalidInputError(f"{_shown(url)}: more than {REDIRECTS} redirects")

    async def _read(self, url: URL, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != HTTPStatus.OK:
            raise InvalidInputError(f"{_shown(url)} answers with status {answer.status}")
        found = bytearray()
        async for chunk in answer.content.iter_chunked(64 * 1024):
            found += chunk
            if len(found) > self._most:
                raise InvalidInputError(
                    f"{_shown(url)} has more than {self._most} bytes; send a smaller picture"
                )
        if not found:
            raise InvalidInputError(f"{_shown(url)} has 0 bytes; expected a picture")
        return bytes(found)

    def _check(self, url: URL) -> None:
        """Refuses a URL by what it says, before anything is resolved or connected to.

        Raises:
            InvalidInputError: Another scheme than https, a name and password, a host that is not
                listed, or an address that is not public.
        """
        host, port = (url.raw_host or "").rstrip(".").lower(), url.port or _PORT
        if url.scheme != "https":
            raise InvalidInputError(
                f"{_shown(url)}; expected https or a data URL (data:image/jpeg;base64,...)"
            )
        if url.user is not None or url.password is not None:
            raise InvalidInputError(f"a name or password in the URL of {host!r}; send none")
        if f"{host}:{port}" not in self._hosts:
            raise InvalidInputError(
                f"host {host!r} (port {port}) is not among those that pictures are fetched from"
            )
        if _is_address(host) and not self._allowed(host):  # aiohttp does not resolve these
            raise InvalidInputError(f"{host!r} is not an address of the public internet")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # belongs to the loop that runs now
            context: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_CheckedResolver(self._allowed),
                    use_dns_cache=False,
                    force_close=True,  # no connection outlives the check of its address
                    **context,
                ),
                # What comes compressed may be a bomb; pictures are compressed anyway.
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "lensemble"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


_MOVED = {
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
}


class _NotAllowedError(Exception):
    """A name leads inside the network."""


@contextlib.contextmanager
def _cut_off(answer: aiohttp.ClientResponse) -> Iterator[None]:
    """On failure, drops the connection without TLS's goodbye, which a slow host may draw out."""
    try:
        yield
    except BaseException:
        if answer.connection is not None and answer.connection.transport is not None:
            answer.connection.transport.abort()
        raise


def _read_url(said: str) -> URL:
    try:
        return URL(said)
    except ValueError as error:
        raise InvalidInputError(f"{said[:80]!r} is not a URL: {error}") from error


def _shown(url: URL) -> str:
    """The URL for an error, without query and password: they may be secrets."""
    return repr(str(url.with_user(None).with_query(None))[:80]) if url.absolute else repr(str(url))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _CheckedResolver(AbstractResolver):
    """Resolves names; what aiohttp gets is checked, and is what it connects to."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        addresses = [(kind, str(place[0])) for kind, _, _, _, place in found]
        # One bad address among good ones is an attack, not a mistake.
        if bad := next((one for _, one in addresses if not self._allowed(one)), None):
            raise _NotAllowedError(f"{host!r} leads to {bad}, which is not of the public internet")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, address in addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""
