"""The transport against real sockets: what it knows was written, and what can no longer leave."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from app.domain.models import OutcomeKind
from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.transport import Transport, TransportError, classify_transport_error

LONG = 30.0  # a deadline no test waits for
SHORT = 1.0  # a deadline some tests do wait for; nothing depends on its length
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Seen: Yes\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def request(port: int, body: bytes = b"a=b", scheme: str = "http", method: str = "POST") -> ProviderRequest:
    return ProviderRequest(method, f"{scheme}://127.0.0.1:{port}/v3/x", {"Authorization": "Basic eA=="}, body)


async def send(transport: Transport, what: ProviderRequest, seconds: float = LONG) -> ProviderResponse:
    return await transport.send(what, asyncio.get_running_loop().time() + seconds)


async def failure(transport: Transport, what: ProviderRequest, seconds: float = LONG) -> TransportError:
    with pytest.raises(TransportError) as failed:
        await send(transport, what, seconds)
    return failed.value


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server whose handlers have all ended when the context does."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@dataclass
class Peer:
    """Reads whole requests, answers each with ``answer``, and remembers what it saw."""

    answer: bytes = OK
    close_after: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not self.close_after or not self.requests:
                self.requests.append(await read_request(reader))
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    return head + await reader.readexactly(length)


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# -- answers -------------------------------------------------------------------------------------------------


async def test_an_answer_comes_back_whatever_its_status():
    peer = Peer(b"HTTP/1.1 503 Nope\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\nlate")
    async with Transport() as transport, serving(peer) as port:
        response = await send(transport, request(port))
    assert (response.status, response.body, response.headers["retry-after"]) == (503, b"late", "7")


async def test_the_request_is_ours_alone(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{dead_port()}")
    peer = Peer(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    async with Transport() as transport, serving(peer) as port:
        for _ in range(2):
            await send(transport, request(port))
    assert peer.connections == 1
    for seen in peer.requests:
        head, _, body = seen.lower().partition(b"\r\n\r\n")
        assert b"\r\nauthorization: basic ea==\r\n" in head
        assert b"\r\naccept-encoding: identity" in head
        assert b"cookie" not in head
        assert body == b"a=b"


async def test_a_redirect_is_an_answer_and_is_not_followed():
    peer = Peer(b"HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with Transport() as transport, serving(peer) as port:
        assert (await send(transport, request(port))).status == 307
    assert len(peer.requests) == 1


@pytest.mark.parametrize("length", [b"Content-Length: 5000", b"Connection: close"], ids=["announced", "unannounced"])
async def test_a_body_over_the_limit_is_cut(length):
    peer = Peer(b"HTTP/1.1 400 Bad\r\n" + length + b"\r\n\r\n" + b"x" * 5000, close_after=True)
    async with Transport(response_bytes_max=1000) as transport, serving(peer) as port:
        response = await send(transport, request(port))
    assert (response.status, response.body) == (400, b"x" * 1000)


async def test_a_body_of_several_megabytes_arrives_whole():
    peer, body = Peer(), bytes(range(256)) * 12_000
    async with Transport() as transport, serving(peer) as port:
        assert (await send(transport, request(port, body))).status == 200
    assert peer.requests[0].endswith(b"\r\n\r\n" + body)


# -- what was written ----------------------------------------------------------------------------------------


async def test_a_refused_connection_wrote_nothing():
    async with Transport() as transport:
        error = await failure(transport, request(dead_port()))
    assert not error.written
    assert "onnect" in error.detail
    assert classify_transport_error(error).kind is OutcomeKind.TRANSIENT


async def test_a_failed_handshake_wrote_nothing():
    async def not_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
        writer.close()

    async with Transport() as transport, serving(not_tls) as port:
        assert not (await failure(transport, request(port, scheme="https"))).written


async def test_a_name_that_does_not_resolve_wrote_nothing():
    async with Transport() as transport:
        what = ProviderRequest("POST", "http://nowhere.invalid/", {}, b"x")
        assert not (await failure(transport, what)).written


async def test_an_impossible_url_wrote_nothing():
    async with Transport() as transport:
        assert not (await failure(transport, ProviderRequest("POST", "http:///", {}, b"x"))).written


async def test_waiting_in_vain_for_a_free_connection_wrote_nothing():
    held, release = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        held.set()
        await release.wait()
        writer.write(OK)
        writer.close()

    async with Transport(connections_max=1) as transport, serving(slow) as port:
        first = asyncio.create_task(send(transport, request(port)))
        await held.wait()
        assert not (await failure(transport, request(port), SHORT)).written
        release.set()
        assert (await first).status == 200


async def test_a_deadline_already_past_writes_nothing():
    peer = Peer()
    async with Transport() as transport, serving(peer) as port:
        await send(transport, request(port))  # a warm connection would make it easy to write at once
        error = await failure(transport, request(port), -1)
    assert not error.written
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut short",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"220 mail.example.com ESMTP\r\n",
    ],
    ids=["no answer", "half a head", "half a body", "half a chunk", "not HTTP"],
)
async def test_a_connection_lost_after_the_request_may_have_been_written(answer):
    peer = Peer(answer, close_after=True)
    async with Transport() as transport, serving(peer) as port:
        error = await failure(transport, request(port))
    assert error.written
    assert classify_transport_error(error).kind is OutcomeKind.UNKNOWN
    assert len(peer.requests) == 1


async def test_a_reset_after_the_request_may_have_been_written():
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.abort()

    async with Transport() as transport, serving(resetting) as port:
        assert (await failure(transport, request(port))).written


async def test_silence_until_the_deadline_may_have_been_written():
    peer = Peer(b"")
    async with Transport() as transport, serving(peer) as port:
        error = await failure(transport, request(port), SHORT)
        await peer.closed.wait()
    assert error.written
    assert error.detail == "no answer before the deadline"


async def test_a_stale_connection_is_not_tried_twice():
    """The provider closes an idle connection as the next request goes out: nobody knows, nobody resends."""
    seen = []

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)
        await reader.readexactly(1)  # the next request is on its way
        writer.transport.abort()

    async with Transport() as transport, serving(closing) as port:
        await send(transport, request(port))
        assert (await failure(transport, request(port))).written
    assert len(seen) == 1


async def test_a_connection_seen_closed_is_replaced_before_writing():
    """A close that came before its request is noticed: that request goes over a new connection."""
    peer = Peer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", close_after=True)
    async with Transport() as transport, serving(peer) as port:
        await send(transport, request(port))
        peer.requests.clear()
        await send(transport, request(port))
    assert peer.connections == 2


# -- what can no longer leave --------------------------------------------------------------------------------


class StalledPeer:
    """Takes a connection and reads nothing until told; then all there is, like a network that heals."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it listens, or it is not kept
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._heal = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.received = 0
        self.reset = False
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            self._heal.wait()
            try:
                while chunk := connection.recv(65536):
                    self.received += len(chunk)
            except ConnectionResetError:
                self.reset = True

    def heal(self) -> None:
        self._heal.set()
        self._thread.join()


def run_on(loop_factory, main: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


class Observed(Transport):
    """Keeps its sockets in view and, if told, their buffers small, so that more waits in the event loop's."""

    def __init__(self, send_buffer: int | None = None) -> None:
        super().__init__()
        self._send_buffer = send_buffer
        self.sockets: list[socket.socket] = []

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        sock = super()._socket(address)
        if self._send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self.sockets.append(sock)
        return sock


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
HELD = pytest.mark.parametrize(
    ("size", "send_buffer"),
    [(200_000, None), (200_000, 8192), (8_000_000, None)],
    ids=["held by the kernel", "held by the loop", "not all read yet"],
)


@LOOPS
@HELD
def test_a_peer_that_heals_after_the_deadline_never_gets_the_request(loop_factory, size, send_buffer):
    peer = StalledPeer()

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            assert (await failure(transport, request(peer.port, b"x" * size), SHORT)).written
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)  # the loop is alive, and would flush what it still held

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


@LOOPS
@HELD
def test_a_cancelled_call_leaves_nothing_behind_either(loop_factory, size, send_buffer):
    peer = StalledPeer()

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send(transport, request(peer.port, b"x" * size)), SHORT)
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


async def test_the_kernel_gives_up_should_we_not():
    """TCP_USER_TIMEOUT and the zero linger time are on the very socket that carries the request."""
    async with Transport(user_timeout_seconds=7) as transport:
        sock = transport._socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)))
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
