"""The guard: what it refuses, and that what it checked is what is connected to."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Response

from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.guarded import (
    NAMES_AT_ONCE,
    RESPONSE_BYTES_MAX,
    Forbidden,
    GuardedTransport,
    Lookup,
    check_url,
    refused,
    resolve_allowed,
)
from app.providers.transport import TransportError
from app.providers.transports import open_transport
from app.settings import Endpoints

PUBLIC = Endpoints()
DEVELOPMENT = Endpoints(allow_loopback=True)
LONG = 30.0
PUBLIC_ADDRESS = "93.184.216.34"


def answering(*answers: Sequence[str]) -> tuple[Lookup, list[str]]:
    """A resolver that gives these answers one after another, and the names it was asked for."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return lookup, asked


class Observed(GuardedTransport):
    """Notes which addresses it would connect to, and connects to none that is not on this machine."""

    def __init__(self, *, endpoints: Endpoints, lookup: Lookup) -> None:
        super().__init__(connections_max=10, endpoints=endpoints, lookup=lookup)
        self.tried: list[str] = []

    def _socket(self, address: tuple[Any, ...]) -> Any:
        host = address[4][0]
        self.tried.append(host)
        if not ip_address(host).is_loopback:
            raise OSError(errno.ENETUNREACH, "no way there from a test")
        return super()._socket(address)


async def send(transport: GuardedTransport, url: str, seconds: float = LONG) -> ProviderResponse:
    request = ProviderRequest("POST", url, {"X-Test": "yes"}, b"{}")
    return await transport.send(request, asyncio.get_running_loop().time() + seconds)


async def refusal(transport: GuardedTransport, url: str) -> Forbidden:
    with pytest.raises(Forbidden) as failed:
        await send(transport, url)
    assert not failed.value.written
    return failed.value


# -- addresses -----------------------------------------------------------------------------------------------

FORBIDDEN = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "CGNAT",
    "100.100.100.200": "CGNAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "platform",
    "169.254.169.254": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved",
    "192.0.2.1": "documentation",
    "192.88.99.1": "reserved",
    "192.168.1.1": "private",
    "198.18.0.1": "reserved",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "reserved",
    "::ffff:0.0.0.0": "unspecified",
    "::ffff:10.0.0.1": "private",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "link-local",
    "64:ff9b::a00:1": "private",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::808:808": "private",
    "100::1": "reserved",
    "2001::1": "tunnel",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "tunnel",
    "2002:808:808::": "tunnel",
    "3fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
}
ALLOWED = ["1.1.1.1", PUBLIC_ADDRESS, "172.32.0.1", "100.128.0.1", "2606:2800:21f:cb07::1", "64:ff9b::808:808"]
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize(("address", "what"), FORBIDDEN.items())
def test_no_special_address_may_be_called(address, what):
    words = refused(ip_address(address), PUBLIC)
    assert words is not None
    assert what in words
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match=r"^must not lead to ") as wrong:
        check_url(f"https://{host}/hook", PUBLIC)
    assert address not in str(wrong.value)


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_may_be_called(address):
    assert refused(ip_address(address), PUBLIC) is None
    check_url(f"https://{f'[{address}]' if ':' in address else address}/hook", PUBLIC)


@given(st.ip_addresses())
def test_nothing_that_is_not_global_passes(address):
    assert refused(address, PUBLIC) or address.is_global


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_makes_no_better_one_of_it(address):
    for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert (refused(ip_address(wrapped), PUBLIC) is None) == (refused(address, PUBLIC) is None)


@given(st.ip_addresses())
def test_a_development_machine_opens_itself_and_nothing_else(address):
    mapped = getattr(address, "ipv4_mapped", None) or address
    assert refused(address, DEVELOPMENT) == (None if mapped.is_loopback else refused(address, PUBLIC))


# -- URLs ----------------------------------------------------------------------------------------------------

GOOD = [
    "https://hooks.example.com/in?x=1",
    "https://hooks.example.com",
    "https://hooks.example.com:8443/",
    "https://HOOKS.example.com./",
    "https://xn--bcher-kva.example/hook",
    "https://a_b.example.com/hook",
]
BAD = {
    "http://hooks.example.com/": "https",
    "ftp://hooks.example.com/": "https",
    "//hooks.example.com/": "https",
    "HTTPS://hooks.example.com/": "https",
    "https://hooks.example.com:80/": "port",
    "https://hooks.example.com:22/": "port",
    "https://hooks.example.com:0/": "port",
    "https://hooks.example.com:99999/": "must be a URL",
    "https://user@hooks.example.com/": "user name",
    "https://user:secret@hooks.example.com/": "user name",
    "https://hooks.example.com@127.0.0.1/": "user name",
    "https://hooks.example.com/#here": "fragment",
    "https://hooks.example.com\\@127.0.0.1/": "printable ASCII",
    "https://hooks.example.com/a b": "printable ASCII",
    "https://hooks.example.com/\r\nX-Evil: yes": "printable ASCII",
    "https://bücher.example/": "xn--",
    "https://" + "a" * 2048: "2048",
    "https:///path": "name a host",
    "https://": "name a host",
    "": "printable ASCII",
    "https://intranet/": "in full",
    "https://localhost/": "this machine",
    "https://LOCALHOST./": "this machine",
    "https://evil.localhost/": "this machine",
    "https://0x7f.1/": "usual form",
    "https://0x7f000001/": "usual form",
    "https://2130706433/": "usual form",
    "https://127.1/": "usual form",
    "https://0177.0.0.1/": "usual form",
    "https://127.0.0.1./": "usual form",
    "https://1.2.3.4.5/": "usual form",
    "https://foo.0x7f/": "usual form",
    "https://%31%32%37.0.0.1/": "usual form",
    "https://a..b.example/": "usual form",
    "https://-a-.example/": "usual form",
    "https://[fe80::1%25eth0]/": "usual form",
    "https://[2606:2800:21f:cb07::1%251]/": "usual form",
    "https://[::1/": "must be a URL",
    "https://[1.2.3.4]/": "must be a URL",
}


@pytest.mark.parametrize("url", GOOD)
def test_a_usual_url_passes(url):
    check_url(url, PUBLIC)


@pytest.mark.parametrize(("url", "words"), BAD.items())
def test_a_bad_url_is_refused_in_words_that_do_not_repeat_it(url, words):
    with pytest.raises(ValueError, match=words) as wrong:
        check_url(url, PUBLIC)
    assert len(str(wrong.value)) < 150
    assert url == "" or url not in str(wrong.value)


def test_which_ports_are_open_is_configurable():
    check_url("https://hooks.example.com:444/", Endpoints(ports=(444,)))
    with pytest.raises(ValueError, match="must use port 444$"):
        check_url("https://hooks.example.com/", Endpoints(ports=(444,)))


LOCAL = ["http://127.0.0.1:8025/", "http://localhost:1/", "https://[::1]:9/", "http://api.localhost:80/hook"]


@pytest.mark.parametrize("url", LOCAL)
def test_loopback_is_open_only_where_the_configuration_says_so(url):
    check_url(url, DEVELOPMENT)
    with pytest.raises(ValueError, match="must not lead to"):
        check_url(url, PUBLIC)


@pytest.mark.parametrize("url", [url for url in BAD if "localhost" not in url.lower()])
def test_a_development_machine_refuses_all_the_rest_as_well(url):
    with pytest.raises(ValueError, match=r"."):
        check_url(url, DEVELOPMENT)


@given(st.text() | st.from_regex(r"https?://[!-~]{0,30}(:[0-9]{1,6})?(/[!-~]{0,9})?", fullmatch=True))
def test_any_text_is_judged_without_falling_over(url):
    with suppress(ValueError):
        check_url(url, PUBLIC)


# -- resolving -----------------------------------------------------------------------------------------------


async def test_a_name_may_be_called_if_all_its_addresses_may():
    lookup, _ = answering([PUBLIC_ADDRESS, "2606:2800:21f:cb07::1"])
    assert await resolve_allowed("hooks.example.com", 443, PUBLIC, lookup) == [PUBLIC_ADDRESS, "2606:2800:21f:cb07::1"]


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_one_forbidden_address_condemns_the_name(address):
    lookup, _ = answering([PUBLIC_ADDRESS, address])
    with pytest.raises(Forbidden) as wrong:
        await resolve_allowed("hooks.example.com", 443, PUBLIC, lookup)
    assert address not in wrong.value.detail


async def test_localhost_is_this_machine_or_nothing():
    lookup, _ = answering([PUBLIC_ADDRESS])
    with pytest.raises(Forbidden):
        await resolve_allowed("localhost", 80, DEVELOPMENT, lookup)


async def test_the_systems_resolver_is_asked():
    assert set(await resolve_allowed("localhost", 80, DEVELOPMENT)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match="."):
        await resolve_allowed("nowhere.invalid", 443, PUBLIC)


# -- the transport -------------------------------------------------------------------------------------------


async def test_only_the_address_that_was_checked_is_connected_to(httpserver: HTTPServer):
    """DNS rebinding: the first answer is public, every later one this machine."""
    httpserver.expect_request("/").respond_with_data("reached")
    lookup, asked = answering([PUBLIC_ADDRESS], ["127.0.0.1"])
    endpoints = Endpoints(ports=(httpserver.port,))
    async with Observed(endpoints=endpoints, lookup=lookup) as transport:
        with pytest.raises(TransportError) as failed:
            await send(transport, f"https://rebind.example.com:{httpserver.port}/")
    assert not failed.value.written
    assert transport.tried == [PUBLIC_ADDRESS]
    assert asked == ["rebind.example.com"]
    assert httpserver.log == []


async def test_a_name_that_leads_inside_is_never_connected_to():
    lookup, _ = answering(["10.0.0.5"])
    async with Observed(endpoints=PUBLIC, lookup=lookup) as transport:
        error = await refusal(transport, "https://hooks.example.com/")
    assert transport.tried == []
    assert error.detail == "the address resolves to a private address"
    assert error.reason == "forbidden_address"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "169.254.169.254"]
)
async def test_an_address_in_the_url_is_looked_at_too(host):
    lookup, asked = answering([PUBLIC_ADDRESS])
    async with Observed(endpoints=PUBLIC, lookup=lookup) as transport:
        await refusal(transport, f"https://{host}/")
    assert (transport.tried, asked) == ([], [])


async def test_the_socket_is_the_last_to_look():
    async with GuardedTransport(connections_max=1, endpoints=PUBLIC) as transport:
        with pytest.raises(OSError, match="forbidden"):
            transport._socket((2, 1, 6, "", ("10.0.0.1", 443)))


async def test_a_name_that_does_not_resolve_may_do_so_later():
    async with GuardedTransport(connections_max=1, endpoints=PUBLIC) as transport:
        with pytest.raises(TransportError) as failed:
            await send(transport, "https://nowhere.invalid/")
    assert not failed.value.written
    assert not isinstance(failed.value, Forbidden)


async def test_name_servers_that_never_answer_keep_no_vendor_waiting(monkeypatch: pytest.MonkeyPatch):
    answer, real = threading.Event(), socket.getaddrinfo

    def resolver(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".tarpit.example"):
            answer.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    waiting = [
        asyncio.create_task(resolve_allowed(f"{n}.tarpit.example", 443, PUBLIC)) for n in range(3 * NAMES_AT_ONCE)
    ]
    try:
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        assert not any(task.done() for task in waiting)
    finally:
        answer.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {socket.gaierror}


async def test_a_redirect_to_this_machine_is_an_answer_and_is_not_followed(httpserver: HTTPServer):
    httpserver.expect_request("/hook").respond_with_data(
        status=302, headers={"Location": httpserver.url_for("/inside")}
    )
    httpserver.expect_request("/inside").respond_with_data("secret")
    async with GuardedTransport(connections_max=1, endpoints=DEVELOPMENT) as transport:
        answer = await send(transport, httpserver.url_for("/hook"))
    assert answer.status == 302
    assert [request.path for request, _ in httpserver.log] == ["/hook"]


async def test_a_development_machine_reaches_itself_by_name(httpserver: HTTPServer):
    httpserver.expect_request("/hook", method="POST").respond_with_data("ok", status=201)
    async with open_transport("guarded", connections_max=1, endpoints=DEVELOPMENT) as transport:
        answer = await send(transport, f"http://localhost:{httpserver.port}/hook")
    ((request, _),) = httpserver.log
    assert (answer.status, answer.body) == (201, b"ok")
    assert request.headers["Host"] == f"localhost:{httpserver.port}"


async def test_elsewhere_it_does_not(httpserver: HTTPServer):
    async with open_transport("guarded", connections_max=1, endpoints=PUBLIC) as transport:
        await refusal(transport, httpserver.url_for("/hook"))
    assert httpserver.log == []


async def test_a_long_answer_is_cut(httpserver: HTTPServer):
    httpserver.expect_request("/hook").respond_with_handler(lambda _: Response(b"x" * 10_000_000))
    async with GuardedTransport(connections_max=1, endpoints=DEVELOPMENT) as transport:
        assert len((await send(transport, httpserver.url_for("/hook"))).body) == RESPONSE_BYTES_MAX


async def test_a_silent_endpoint_has_its_own_patience():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoints = Endpoints(allow_loopback=True, timeout_seconds=1.0)
    async with server, GuardedTransport(connections_max=1, endpoints=endpoints) as transport:
        with pytest.raises(TransportError) as failed:
            await send(transport, f"http://127.0.0.1:{port}/", 3600.0)
    assert failed.value.written


@asynccontextmanager
async def tls_server(*names: str):
    """A server with a certificate for these names, of a CA nobody knows; and the names it was asked for."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(*names).configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_tls_asks_for_the_name_and_trusts_nobody_it_does_not_know():
    lookup, _ = answering(["127.0.0.1"])
    async with tls_server("hooks.example.com") as (port, asked):
        endpoints = Endpoints(allow_loopback=True, ports=(port,))
        async with Observed(endpoints=endpoints, lookup=lookup) as transport:
            with pytest.raises(TransportError) as failed:
                await send(transport, f"https://hooks.example.com:{port}/")
    assert asked == ["hooks.example.com"]
    assert transport.tried == ["127.0.0.1"]
    assert not failed.value.written
    assert "Certificate" in failed.value.detail
