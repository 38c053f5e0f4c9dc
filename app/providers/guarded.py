"""The way to addresses that users give us: merchants' endpoints, chat rooms, push subscriptions.

Whoever may name an address may name one of ours: a database, a neighbour, the cloud's metadata service (SSRF). So a
name is resolved once, every answer is looked at, and the connection is made to the very addresses that were looked at;
what the name resolves to a moment later (DNS rebinding) is never asked. Host and SNI stay those of the name. Redirects
are not followed, so there is no second address. A proxy that filters egress remains good company: this guard knows the
special ranges of the internet, not those that a particular network treats as inside.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, ClassVar, Final

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.transport import Transport, TransportError
from app.settings import Endpoints

RESPONSE_BYTES_MAX: Final = 16 * 1024  # nobody we call this way has more to say
URL_CHARS_MAX: Final = 2048
NAMES_AT_ONCE: Final = 16

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

# By name, because ``is_global`` of the standard library lets some pass, and others in some versions: IANA's registries
# of special-purpose addresses, and 168.63.129.16, Azure's platform, which every machine there can reach.
_REFUSED: Final = tuple(
    (ip_network(network), words)
    for words, networks in {
        "an unspecified address": ("0.0.0.0/8", "::/128"),
        "a loopback address": ("127.0.0.0/8", "::1/128"),
        "a link-local address": ("169.254.0.0/16", "fe80::/10"),
        "a private address": (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
            "fec0::/10",
            "64:ff9b:1::/48",
        ),
        "a shared address of a provider (CGNAT)": ("100.64.0.0/10",),
        "a multicast address": ("224.0.0.0/4", "ff00::/8"),
        "an address of the cloud's platform": ("168.63.129.16/32",),
        "a reserved address": ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4"),
        "an address of a tunnel": ("2001::/23", "2002::/16"),
        "an address for documentation": (
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "2001:db8::/32",
            "3fff::/20",
        ),
    }.items()
    for network in networks
)
_GLOBAL_UNICAST: Final = ip_network("2000::/3")
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\.?$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9-]{1,63}\.?"
)
# What C libraries read as an IPv4 address: 127.1, 2130706433, 0x7f.1 (as the URL Standard has it, "ends in a number").
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")


class Forbidden(TransportError):
    """The guard refused the address, and nothing was written. Trying again changes nothing until the address does."""

    reason: ClassVar[str] = "forbidden_address"

    def __init__(self, rule: str) -> None:
        """``rule`` names the rule that was broken, never the address."""
        super().__init__(written=False, detail=f"the address {rule}")


def refused(address: Address, endpoints: Endpoints) -> str | None:
    """What kind of address this is that must not be called; None for one that may."""
    if _is_loopback(address) and endpoints.allow_loopback:
        return None
    real = _embedded(address)
    for network, words in _REFUSED:
        if real in network:
            return words
    if real.version == 6 and real not in _GLOBAL_UNICAST or not real.is_global:
        return "a reserved address"
    return None


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address only wraps: a socket or a gateway would take it out again."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_loopback(address: Address) -> bool:
    """Whether this machine would take it for itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def check_url(url: str, endpoints: Endpoints) -> None:
    """Everything that can be said of a URL without asking anybody.

    Raises ValueError in words for whoever gave it, which do not repeat it: for chat rooms the URL is the secret.
    """
    host, literal = _host(url)
    port = URL(url, encoded=True).port
    if literal is not None and (what := refused(literal, endpoints)):
        raise ValueError(f"must not lead to {what}")
    if is_loopback_host(host):
        if not endpoints.allow_loopback:
            raise ValueError("must not lead to this machine")
        return  # a development machine's own services: in clear, on any port
    if literal is None and "." not in host.rstrip("."):
        raise ValueError("must name a host in full, such as hooks.example.com")
    if not url.startswith("https://"):
        raise ValueError("must begin with https://")
    if port not in endpoints.ports:
        raise ValueError(f"must use port {' or '.join(map(str, endpoints.ports))}")


def _host(url: str) -> tuple[str, Address | None]:
    """The host, and the address if it is one; as the transport reads them. Raises ValueError."""
    if len(url) > URL_CHARS_MAX or not re.fullmatch(r"[!-\[\]-~]+", url):
        raise ValueError(
            f"must have at most {URL_CHARS_MAX} printable ASCII characters (xn--... for others in the host)"
        )
    if not url.startswith(("https://", "http://")):
        raise ValueError("must begin with https://")
    try:
        parsed = URL(url, encoded=True)
        host, authority = parsed.raw_host, parsed.raw_authority
    except ValueError as error:
        raise ValueError("must be a URL such as https://hooks.example.com/path") from error
    if "@" in authority:
        raise ValueError("must not hold a user name or password")
    if "#" in url:
        raise ValueError("must not have a fragment")
    if not host:
        raise ValueError("must name a host")
    try:
        return host, _ip(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host) or _ENDS_IN_NUMBER.fullmatch(host):
            raise ValueError("must name its host by a DNS name, or by an IP address in its usual form") from None
    return host, None


def _ip(host: str) -> Address:
    if "%" in host:  # the zone of a link-local address
        raise ValueError
    return ip_address(host)


def is_loopback_host(host: str) -> bool:
    """Whether a URL's host means this machine, as an address or by name."""
    try:
        return _is_loopback(_ip(host))
    except ValueError:
        return _is_localhost(host)


def _is_localhost(host: str) -> bool:
    """Names that mean the machine itself wherever they are asked for (RFC 6761, 6.3)."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


# Names that users give may have name servers that never answer, and a thread waits for each: not one of those that
# the vendors' names are looked up in.
_NAMES: Final = ThreadPoolExecutor(NAMES_AT_ONCE, thread_name_prefix="names")


async def system_addresses(host: str, port: int) -> list[str]:
    """What the system's resolver answers for a name. Raises OSError (``socket.gaierror``)."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    found = await asyncio.get_running_loop().run_in_executor(_NAMES, ask)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def resolve_allowed(host: str, port: int, endpoints: Endpoints, lookup: Lookup = system_addresses) -> list[str]:
    """The addresses of a name, if every one of them may be called.

    One that may not condemns the name: nobody publishes both by accident, and which one a client takes is chance.
    Raises Forbidden, or OSError when the name does not resolve.
    """
    addresses = await lookup(host, port)
    if not addresses:
        raise OSError(errno.ENOENT, "the name has no address")
    for text in addresses:
        address = ip_address(text)
        if what := refused(address, endpoints):
            raise Forbidden(f"resolves to {what}")
        if _is_localhost(host) and not _is_loopback(address):
            raise Forbidden("is localhost, which resolves to another machine")
    return list(addresses)


class _Pinned(AbstractResolver):
    """Hands the connector the addresses that were looked at, and nothing else."""

    def __init__(self, endpoints: Endpoints, lookup: Lookup) -> None:
        self._endpoints = endpoints
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await resolve_allowed(host, port, self._endpoints, self._lookup)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


class GuardedTransport(Transport):
    """A transport that refuses addresses it must not call. ``lookup``: how a name is resolved."""

    def __init__(self, *, connections_max: int, endpoints: Endpoints, lookup: Lookup = system_addresses) -> None:
        super().__init__(
            connections_max=connections_max,
            response_bytes_max=RESPONSE_BYTES_MAX,
            resolver=_Pinned(endpoints, lookup),
        )
        self._endpoints = endpoints

    async def send(self, request: ProviderRequest, deadline: float) -> ProviderResponse:
        """As ``Transport.send``, by ``endpoints.timeout_seconds`` at the latest. Raises Forbidden."""
        try:
            check_url(request.url, self._endpoints)  # addresses in a URL are never given to a resolver
        except ValueError as error:
            raise Forbidden(str(error)) from None
        own = asyncio.get_running_loop().time() + self._endpoints.timeout_seconds
        return await super().send(request, min(deadline, own))

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """The last look, at the very address that is about to be connected to, whichever way it came here."""
        if refused(ip_address(address[4][0]), self._endpoints):
            raise OSError(errno.EACCES, "a forbidden address")
        return super()._socket(address)
