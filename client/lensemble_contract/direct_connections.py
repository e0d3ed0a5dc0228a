"""Connections that must not go through a proxy, although `http_proxy` names one.

A proxy cannot reach this machine's own loopback, and its answer would be taken for the server's.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:  # they take 20 ms to import, and a client over gRPC does not need them
    import http.client
    import urllib.request

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# curl and gRPC read the small letters, other programs the capitals.
_NO_PROXY = ("no_proxy", "NO_PROXY")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine's loopback, or the address that stands for all of its own.

    Args:
        host: name or address, with or without the brackets of IPv6.
    """
    name = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified


def open_without_proxy(url: str, timeout_s: float) -> http.client.HTTPResponse:
    """Opens a URL like `urllib.request.urlopen`, but never through a proxy.

    Args:
        url: URL with `http`.
        timeout_s: seconds that connecting, and each read, may take.

    Raises:
        OSError: Nothing can be read there, or the answer has an error status.
        http.client.HTTPException: What listens there does not speak HTTP.
    """
    answer: http.client.HTTPResponse = _opener_without_proxy().open(url, timeout=timeout_s)
    return answer


def open_url(url: str, timeout_s: float) -> http.client.HTTPResponse:
    """Opens a URL: on this machine without a proxy, elsewhere with the one that is set.

    Args:
        url: URL with `http` or `https`.
        timeout_s: seconds that connecting, and each read, may take.

    Raises:
        OSError, ValueError, http.client.HTTPException: As `urllib.request.urlopen`.
    """
    if is_this_machine(urlsplit(url).hostname or ""):
        return open_without_proxy(url, timeout_s)
    from urllib.request import urlopen

    answer: http.client.HTTPResponse = urlopen(url, timeout=timeout_s)  # nosec B310
    return answer


@functools.cache
def _opener_without_proxy() -> urllib.request.OpenerDirector:
    from urllib.request import ProxyHandler, build_opener

    return build_opener(ProxyHandler({}))


def with_direct_hosts(environment: Mapping[str, str], hosts: Iterable[str] = ()) -> dict[str, str]:
    """Adds loopback and further hosts to the variables that name hosts without a proxy.

    Args:
        environment: environment variables for a child process.
        hosts: further names or addresses of this machine.
    """
    added = dict.fromkeys([*_LOOPBACK, *(host.strip("[]") for host in hosts)])
    changed = dict(environment)
    before = next((changed[name] for name in _NO_PROXY if changed.get(name)), "")
    known = [each.strip() for each in before.split(",") if each.strip()]
    if "*" not in known:
        value = ",".join(dict.fromkeys([*known, *added]))
        changed |= dict.fromkeys(_NO_PROXY, value)
    return changed
