"""Resolves host names only to addresses of the public internet, never to those inside a network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_LOCAL_NETWORKS = (
    ipaddress.ip_network("::/96"),  # IPv4-compatible addresses, RFC 4291
    ipaddress.ip_network("64:ff9b:1::/48"),  # local NAT64, RFC 8215
)
# A service for Azure's own machines, with an address in the public range.
_AZURE_PLATFORM = ipaddress.ip_address("168.63.129.16")


def is_ip_address(host: str) -> bool:
    """Whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address, in any notation, belongs to the public internet.

    An IPv6 address that embeds an IPv4 address (mapped, NAT64, 6to4) is judged by the latter.
    Teredo addresses count as private, because their destination cannot be determined.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            ip = embedded
        elif (
            ip.teredo is not None
            or ip.is_site_local
            or any(ip in network for network in _LOCAL_NETWORKS)
        ):
            return False
    return ip.is_global and not ip.is_multicast and ip != _AZURE_PLATFORM


class PrivateAddressError(Exception):
    """A host name resolves to an address that is not public."""


class PublicResolver(AbstractResolver):
    """Resolves host names for aiohttp, which connects to exactly the addresses that it returns.

    Args:
        is_allowed: tells whether an IP address may be connected to.
    """

    def __init__(self, is_allowed: Callable[[str], bool] = is_public) -> None:
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            PrivateAddressError: One of them is not allowed. A name with both kinds of address is
                probably an attack, so the allowed addresses are not used either.
        """
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        addresses = [(info_family, str(address[0])) for info_family, _, _, _, address in infos]
        for _, address in addresses:
            if not self._is_allowed(address):
                raise PrivateAddressError(
                    f"{host!r} resolves to {address}, which is not an address of the public "
                    "internet"
                )
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=address_family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address_family, address in addresses
        ]

    async def close(self) -> None:
        """Does nothing, as the resolver holds no resources."""
