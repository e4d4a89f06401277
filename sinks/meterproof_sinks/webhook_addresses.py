"""Which addresses a webhook may go to: those of the public internet, unless an endpoint is allowed others.

Whoever may write an endpoint's address must not reach by it what only this machine or its network can.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in its last 32 bits, reached through a gateway."""


class PrivateAddress(OSError):
    """A host's addresses are all loopback, link-local, private or otherwise not public."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; an IPv6 address that holds an IPv4 address is judged by it.

    Raises:
        ValueError: not an IP address.
    """
    ip: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or ip.teredo is not None:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def is_refused_literal(host: str) -> bool:
    """Whether a URL's host is an IP address that is not public; a name is not, whatever it may resolve to."""
    try:
        return not is_public(host)
    except ValueError:
        return False


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only. The client connects to what it returns: nothing is looked up twice."""

    def __init__(self, resolver: AbstractResolver) -> None:
        """Take names to `resolver`, which is closed with this one."""
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The host's public addresses.

        Raises:
            PrivateAddress: it has others only.
            OSError: it has none.
        """
        found = await self._resolver.resolve(host, port, family)
        public = [one for one in found if is_public(one["host"])]
        if found and not public:
            raise PrivateAddress("the host has no public address")
        return public

    async def close(self) -> None:
        """Let go of the resolver behind."""
        await self._resolver.close()
