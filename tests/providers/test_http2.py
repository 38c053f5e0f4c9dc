"""The HTTP/2 transport against real sockets: what it knows was written, what can no longer leave, who shares what."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import StreamEnded
from h2.exceptions import NoAvailableStreamIDError
from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple

from app.domain.models import OutcomeKind
from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.http2 import Http2Transport
from app.providers.transport import TransportError, classify_transport_error
from app.providers.transports import open_transport
from app.settings import Endpoints
from tests.h2_server import Answer, H2Server, Request, server_context, until

LONG = 30.0  # a deadline no test waits for
SHORT = 1.0  # a deadline some tests do wait for; nothing depends on its length
PATH = "/3/device/abc"


def request(
    server: H2Server | str,
    body: bytes = b"{}",
    path: str = PATH,
    pool: str = "",
    trust: str | None = None,
    **headers: str,
) -> ProviderRequest:
    base, bundle = (server, trust) if isinstance(server, str) else (server.url, trust or server.trust)
    fields = {"Authorization": "bearer x", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return ProviderRequest("POST", base + path, fields, body, trust=bundle, pool=pool)


async def send(transport: Http2Transport, what: ProviderRequest, seconds: float = LONG) -> ProviderResponse:
    return await transport.send(what, asyncio.get_running_loop().time() + seconds)


def sending(transport: Http2Transport, what: ProviderRequest, seconds: float = LONG) -> asyncio.Task[ProviderResponse]:
    return asyncio.create_task(send(transport, what, seconds))


async def failure(transport: Http2Transport, what: ProviderRequest, seconds: float = LONG) -> TransportError:
    with pytest.raises(TransportError) as failed:
        await send(transport, what, seconds)
    return failed.value


async def failed(call: Awaitable[ProviderResponse]) -> TransportError:
    with pytest.raises(TransportError) as error:
        await call
    return error.value


def hold(request: Request) -> None:
    """Answers nothing for now."""


def first_ok(then: Callable[[Request], Answer | None] = hold) -> Callable[[Request], Answer | None]:
    """Answers the first call, so that others may follow, and leaves the rest to ``then``."""
    seen: list[Request] = []

    def handler(request: Request) -> Answer | None:
        seen.append(request)
        return Answer() if len(seen) == 1 else then(request)

    return handler


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- answers -------------------------------------------------------------------------------------------------


async def test_an_answer_comes_back_whatever_its_status():
    answer = Answer(503, {"retry-after": "7", "apns-id": "ID"}, b'{"reason":"Shutdown"}')
    async with H2Server(lambda _: answer) as server, Http2Transport() as transport:
        response = await send(transport, request(server))
    assert (response.status, response.body) == (503, b'{"reason":"Shutdown"}')
    assert (response.headers["retry-after"], response.headers["apns-id"]) == ("7", "ID")
    assert not server.errors


async def test_the_request_arrives_as_it_was_built():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server, b"a body", apns_topic="com.example.app"))
    seen = server.requests[0]
    assert (seen.method, seen.path, seen.body) == ("POST", PATH, b"a body")
    assert seen.headers == {
        "host": f"localhost:{server.port}",
        "authorization": "bearer x",
        "apns-topic": "com.example.app",
        "content-length": "6",
        "user-agent": "Landed",
    }


async def test_secrets_and_what_never_repeats_stay_out_of_compression_tables():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server, apns_id="1", apns_topic="t"))
    never = {header[0] for header in server.requests[0].fields if isinstance(header, NeverIndexedHeaderTuple)}
    assert never == {":path", "authorization", "content-length", "apns-id"}


async def test_a_redirect_is_an_answer_and_is_not_followed():
    async with H2Server(lambda _: Answer(307, {"location": "/elsewhere"})) as server, Http2Transport() as transport:
        assert (await send(transport, request(server))).status == 307
    assert len(server.requests) == 1


async def test_a_body_over_the_limit_is_cut_and_called_off():
    def flood(request: Request) -> None:
        request.answer(Answer(400, {}, b"x" * 5000), end=False)

    async with H2Server(flood) as server, Http2Transport(response_bytes_max=1000) as transport:
        response = await send(transport, request(server))
        await server.requests[0].reset_by_client.wait()
    assert (response.status, response.body) == (400, b"x" * 1000)


@pytest.mark.parametrize("window", [65535, 1000, 1], ids=["usual", "narrow", "one byte"])
async def test_a_large_body_arrives_whole_through_any_window(window):
    body = bytes(range(256)) * (12_000 if window > 1000 else 20)
    async with H2Server(stream_window=window) as server, Http2Transport() as transport:
        assert (await send(transport, request(server, body))).status == 200
    assert server.requests[0].body == body


async def test_an_answer_may_come_before_the_request_is_over():
    def early(request: Request) -> None:
        request.answer(Answer(413))

    async with H2Server(stream_window=10, reads_bodies=False) as server, Http2Transport() as transport:
        call = sending(transport, request(server, b"x" * 1000))
        await server.until_begun(1)
        early(server.begun[0])
        assert (await call).status == 413
        await server.begun[0].reset_by_client.wait()


async def test_without_tls_http2_is_spoken_from_the_start():
    async with H2Server(tls=False) as server, Http2Transport() as transport:
        assert (await send(transport, request(server))).status == 200


async def test_the_kind_http2_opens_this_transport():
    async with (
        H2Server(tls=False) as server,
        open_transport("http2", connections_max=3, endpoints=Endpoints()) as transport,
    ):
        response = await transport.send(request(server), asyncio.get_running_loop().time() + LONG)
    assert response.status == 200


# -- who shares what -----------------------------------------------------------------------------------------


async def test_calls_share_a_connection():
    async with H2Server(first_ok()) as server, Http2Transport() as transport:
        await send(transport, request(server))
        calls = [sending(transport, request(server)) for _ in range(50)]
        await server.until_complete(51)
        for held in server.requests[1:]:
            held.answer(Answer())
        assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert [connection.most_at_once for connection in server.connections] == [50]


async def test_pools_share_no_connection():
    async with H2Server() as server, Http2Transport() as transport:
        for pool in ("apns:team-a", "apns:team-b", "apns:team-a"):
            await send(transport, request(server, pool=pool))
    assert [held.connection.number for held in server.requests] == [0, 1, 0]


async def test_those_who_trust_different_authorities_share_no_connection(tmp_path):
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server))
        copy = tmp_path / "ca.pem"
        copy.symlink_to(server.trust)
        await send(transport, request(server, trust=str(copy)))
    assert len(server.connections) == 2


async def test_a_new_connection_carries_one_call_until_its_first_success():
    """APNs allows a second stream only after a request with a valid token."""
    async with (
        H2Server(hold, streams_max=1, streams_max_once_trusted=1000) as server,
        Http2Transport() as transport,
    ):
        calls = [sending(transport, request(server)) for _ in range(20)]
        await server.until_complete(1)
        assert (len(server.begun), len(server.connections)) == (1, 1)
        server.handler = lambda _: Answer()
        server.requests[0].answer(Answer())
        await asyncio.gather(*calls)
    assert len(server.connections) == 1
    assert not server.errors


@pytest.mark.parametrize(("status", "proves"), [(200, True), (410, True), (400, True), (403, False), (500, False)])
async def test_an_answer_about_the_message_shows_that_the_token_was_taken(status, proves):
    async with H2Server(hold) as server, Http2Transport() as transport:
        calls = [sending(transport, request(server)) for _ in range(3)]
        await server.until_complete(1)
        server.requests[0].answer(Answer(status))
        await server.until_complete(3 if proves else 2)
        assert len(server.begun) == (3 if proves else 2)
        server.handler = lambda _: Answer()
        for held in server.requests[1:]:
            held.answer(Answer())
        await asyncio.gather(*calls)


async def test_the_peers_limit_on_streams_is_kept():
    async with H2Server(first_ok(), streams_max=5) as server, Http2Transport(connections_max=1) as transport:
        await send(transport, request(server))
        calls = [sending(transport, request(server)) for _ in range(12)]
        await server.until_complete(6)
        server.handler = lambda _: Answer()
        for held in server.requests[1:]:
            held.answer(Answer())
        await asyncio.gather(*calls)
    assert [connection.most_at_once for connection in server.connections] == [5]
    assert not server.errors


async def test_a_limit_that_is_raised_lets_more_calls_out():
    async with H2Server(first_ok(), streams_max=1) as server, Http2Transport(connections_max=1) as transport:
        await send(transport, request(server))
        calls = [sending(transport, request(server)) for _ in range(10)]
        await server.until_complete(2)
        server.connections[0].allow(100)
        await server.until_complete(11)
        for held in server.requests[1:]:
            held.answer(Answer())
        await asyncio.gather(*calls)


async def test_full_connections_get_another_beside_them_up_to_the_limit():
    async with (
        H2Server(first_ok()) as server,
        Http2Transport(connections_max=3, streams_max=4) as transport,
    ):
        await send(transport, request(server))
        calls = [sending(transport, request(server)) for _ in range(40)]
        await server.until_complete(1 + 4 + 1)  # four on the first, one to try the second
        while not all(call.done() for call in calls):
            for held in server.requests[1:]:
                if held.stream in held.connection.open:
                    held.answer(Answer())
            await asyncio.sleep(0.002)
        await asyncio.gather(*calls)
    assert len(server.connections) == 3
    assert max(connection.most_at_once for connection in server.connections) == 4


async def test_calls_start_in_the_order_they_came():
    async with H2Server(hold) as server, Http2Transport(connections_max=1) as transport:
        calls = []
        for number in range(10):
            calls.append(sending(transport, request(server, path=f"/{number}")))
            await asyncio.sleep(0)
        await server.until_complete(1)
        server.handler = lambda _: Answer()
        server.requests[0].answer(Answer())
        await asyncio.gather(*calls)
    assert [held.path for held in server.requests] == [f"/{number}" for number in range(10)]


async def test_a_call_waits_for_a_window_that_lets_it_out_whole():
    """Half a request on the wire would have been written, and could only be waited for."""
    server = H2Server(first_ok(), reads_bodies=False)
    async with server, Http2Transport(connections_max=1) as transport:
        await send(transport, request(server))
        first = sending(transport, request(server, b"x" * 60_000))
        await server.until_complete(2)
        error = await failure(transport, request(server, b"x" * 6_000), SHORT)
        assert not error.written
        assert len(server.begun) == 2
        server.requests[1].answer(Answer())
        assert (await first).status == 200


# -- what was not written --------------------------------------------------------------------------------------


async def test_a_refused_connection_wrote_nothing():
    async with Http2Transport() as transport:
        error = await failure(transport, request(f"https://127.0.0.1:{dead_port()}"))
    assert not error.written
    assert "onnect" in error.detail
    assert classify_transport_error(error).kind is OutcomeKind.TRANSIENT


async def test_a_name_that_does_not_resolve_wrote_nothing():
    async with Http2Transport() as transport:
        assert not (await failure(transport, request("https://nowhere.invalid"))).written


@pytest.mark.parametrize(
    ("names", "trust_it", "told"),
    [
        (("elsewhere.example",), True, "certificate"),
        (("localhost",), False, "certificate"),
    ],
    ids=["another host's certificate", "an unknown authority"],
)
async def test_a_peer_that_is_not_who_we_called_is_told_nothing(names, trust_it, told):
    async with H2Server(names=names) as server, Http2Transport() as transport:
        what = request(server.url, trust=server.trust if trust_it else None)
        error = await failure(transport, what)
    assert not error.written
    assert told in error.detail.lower()
    assert not server.begun


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_a_peer_that_speaks_no_http2_is_told_nothing(alpn):
    async with H2Server(alpn=alpn) as server, Http2Transport() as transport:
        error = await failure(transport, request(server))
    assert not error.written
    assert error.detail == "the provider does not speak HTTP/2"


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail ESMTP\r\n", b""])
async def test_a_server_of_another_kind_is_told_nothing(greeting):
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Http2Transport() as transport:
        for scheme in ("http", "https"):
            assert not (await failure(transport, request(f"{scheme}://127.0.0.1:{port}"))).written
    server.close()
    await server.wait_closed()


async def test_a_silent_peer_is_told_nothing():
    async with H2Server(silent=True) as server, Http2Transport() as transport:
        error = await failure(transport, request(server), SHORT)
    assert not error.written
    assert error.detail == "no connection had room before the deadline"


async def test_waiting_in_vain_for_room_wrote_nothing():
    async with H2Server(hold) as server, Http2Transport(connections_max=1) as transport:
        first = sending(transport, request(server))
        await server.until_complete(1)
        assert not (await failure(transport, request(server), SHORT)).written
        server.requests[0].answer(Answer())
        assert (await first).status == 200
    assert len(server.begun) == 1


async def test_a_call_whose_turn_comes_too_late_is_not_begun():
    """It could expire before its bytes are acknowledged, and would take its neighbours with it."""
    async with H2Server(hold) as server, Http2Transport(connections_max=1) as transport:
        first = sending(transport, request(server))
        await server.until_complete(1)
        second = sending(transport, request(server), 0.2)
        await asyncio.sleep(0)
        server.requests[0].answer(Answer())
        await first
        assert not (await failed(second)).written
    assert len(server.begun) == 1


async def test_a_deadline_already_past_writes_nothing():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server))
        assert not (await failure(transport, request(server), -1)).written
    assert len(server.begun) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https:///",
        "https://",
        "ftp://localhost/",
        "localhost",
        "https://user@localhost/",
        "https://localhost:x/",
        "https://localhost/a b",
        "https://localhost/é",
        "https://localhost/\r\n",
        "https://localhost?x",
        "https://ü.example/",
    ],
)
async def test_an_impossible_url_wrote_nothing(url):
    async with Http2Transport() as transport:
        assert not (await failure(transport, ProviderRequest("POST", url, {}, b"x"))).written


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "a\r\nb"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x", "ü"),
        ("a b", "x"),
        (":path", "/"),
        ("a\r\nb", "x"),
        ("", "x"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Host", "elsewhere"),
    ],
)
async def test_a_header_that_could_say_something_else_is_not_sent(name, value):
    async with H2Server() as server, Http2Transport() as transport:
        what = ProviderRequest("POST", f"{server.url}/", {name: value}, b"x", trust=server.trust)
        assert not (await failure(transport, what)).written
    assert not server.connections


async def test_a_stream_the_peer_refused_was_not_processed():
    refuse = first_ok(lambda held: held.reset(ErrorCodes.REFUSED_STREAM))
    async with H2Server(refuse) as server, Http2Transport() as transport:
        await send(transport, request(server))
        error = await failure(transport, request(server))
    assert not error.written
    assert error.detail == "reset by the provider: REFUSED_STREAM"


async def test_streams_above_the_last_of_a_goaway_were_not_processed_and_the_others_go_on():
    async with H2Server(first_ok()) as server, Http2Transport() as transport:
        await send(transport, request(server))
        calls = [sending(transport, request(server, path=f"/{number}")) for number in range(3)]
        await server.until_complete(4)
        spared, *others = server.requests[1:]
        spared.connection.goaway(spared.stream, data=b'{"reason":"Shutdown\\r\\n!"}')
        for number in (1, 2):
            error = await failed(calls[number])
            assert not error.written
            assert error.detail == "GOAWAY: NO_ERROR Shutdown"
        assert not calls[0].done()
        spared.answer(Answer(200, {"apns-id": "spared"}))
        assert (await calls[0]).headers["apns-id"] == "spared"
        await spared.connection.closed.wait()
        server.handler = lambda _: Answer()
        assert (await send(transport, request(server))).status == 200
    assert len(server.connections) == 2


async def test_a_goaway_before_the_first_call_wrote_nothing():
    """A server that is leaving greets and says goodbye in one breath."""
    greeting = H2Connection(H2Configuration(client_side=False))
    greeting.initiate_connection()
    greeting.close_connection(last_stream_id=0)
    words = greeting.data_to_send()

    async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(leaving, "127.0.0.1", 0)
    async with Http2Transport() as transport:
        error = await failure(transport, request(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    server.close()
    await server.wait_closed()
    assert not error.written
    assert error.detail == "closed by the provider at once"


async def test_waiting_calls_outlive_the_connection_they_waited_for():
    async with H2Server(hold) as server, Http2Transport() as transport:
        first, second = sending(transport, request(server)), sending(transport, request(server))
        await server.until_complete(1)
        server.handler = lambda _: Answer()
        server.connections[0].drop()
        assert (await failed(first)).written
        assert (await second).status == 200
    assert len(server.connections) == 2


# -- what may have been written --------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [None, Answer(200, {}, b"half")], ids=["no answer", "half an answer"])
async def test_a_connection_lost_after_the_request_may_have_been_written(begin):
    def lose(held: Request) -> None:
        if begin is not None:
            held.answer(begin, end=False)
        held.connection.transport.close()

    async with H2Server(lose) as server, Http2Transport() as transport:
        error = await failure(transport, request(server))
    assert error.written
    assert classify_transport_error(error).kind is OutcomeKind.UNKNOWN
    assert len(server.begun) == 1


async def test_a_stream_reset_for_another_reason_may_have_been_processed():
    async with H2Server(lambda held: held.reset(ErrorCodes.INTERNAL_ERROR)) as server, Http2Transport() as transport:
        error = await failure(transport, request(server))
    assert error.written
    assert error.detail == "reset by the provider: INTERNAL_ERROR"


async def test_a_stream_that_a_goaway_spared_but_nobody_answered_may_have_been_processed():
    async with H2Server(hold) as server, Http2Transport() as transport:
        call = sending(transport, request(server))
        await server.until_complete(1)
        server.requests[0].connection.goaway(server.requests[0].stream, ErrorCodes.ENHANCE_YOUR_CALM)
        server.requests[0].connection.transport.close()
        assert (await failed(call)).written


@pytest.mark.parametrize(
    ("nonsense", "told"),
    [
        (b"\0\0\1\4\0\0\0\0\0x", "FrameDataMissingError"),
        (b"\0\0\0\0\1\0\0\0\0", "ProtocolError"),
        (b"\xff" * 200_000, "the provider sent a frame of a size never agreed to"),
    ],
    ids=["cut settings", "data for the connection", "a giant frame"],
)
async def test_nonsense_from_the_peer_leaves_the_call_in_doubt(nonsense, told):
    babbling = H2Server(lambda held: held.connection.transport.write(nonsense))
    async with babbling as server, Http2Transport() as transport:
        error = await failure(transport, request(server))
    assert error.written
    assert error.detail == told


async def test_silence_until_the_deadline_costs_no_neighbour_its_connection():
    """What the peer acknowledged cannot leave any more, so calling off the one stream is enough."""
    async with H2Server(first_ok()) as server, Http2Transport() as transport:
        await send(transport, request(server))
        neighbour = sending(transport, request(server))
        await server.until_complete(2)
        error = await failure(transport, request(server), SHORT)
        assert error.written
        assert error.detail == "no answer before the deadline"
        await server.requests[2].reset_by_client.wait()
        server.requests[1].answer(Answer(201))
        assert (await neighbour).status == 201
    assert len(server.connections) == 1
    assert not server.errors


async def test_an_answer_that_comes_after_the_deadline_changes_nothing():
    async with H2Server(first_ok()) as server, Http2Transport() as transport:
        await send(transport, request(server))
        deaf = server.connections[0].data_received
        call = sending(transport, request(server), SHORT)
        await server.until_complete(2)
        server.connections[0].data_received = lambda data: None  # the call-off is on its way, the answer too
        assert (await failed(call)).written
        server.requests[1].answer(Answer(200, {}, b"late"))
        server.connections[0].data_received = deaf
        server.handler = lambda _: Answer(204)
        assert (await send(transport, request(server))).status == 204
    assert len(server.connections) == 1


@pytest.mark.parametrize("seed", range(30))
async def test_no_peer_can_make_it_crash(seed):
    """Whatever bytes follow a request, the call ends with an answer or a TransportError, and nothing else happens."""
    chance = random.Random(seed)

    def babble(held: Request) -> None:
        peer = held.connection
        frames = b""
        for _ in range(chance.randrange(1, 5)):
            payload = chance.randbytes(chance.choice([0, 4, 5, 8, 50]))
            stream = chance.choice([0, held.stream, held.stream + 2, 2, 2**31 - 1])
            frame = bytes([chance.randrange(0, 12), chance.choice([0, 1, 4, 5, 8, 0x20, 0xFF])])
            frames += len(payload).to_bytes(3, "big") + frame + stream.to_bytes(4, "big") + payload
        peer.transport.write(frames)
        peer.transport.close()

    async with H2Server(babble, tls=False) as server, Http2Transport() as transport:
        with contextlib.suppress(TransportError):
            await send(transport, request(server))
        server.handler = lambda _: Answer()
        assert (await send(transport, request(server))).status == 200


# -- what can no longer leave ----------------------------------------------------------------------------------


class StalledPeer:
    """Greets in HTTP/2 with windows wide open, reads nothing more, then all there is, like a network that heals.

    answers_first: takes and answers one call before it goes quiet.
    """

    def __init__(self, tls: bool, *, answers_first: bool = False) -> None:
        self._answers_first = answers_first
        self._context = server_context() if tls else None
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it listens, or it is not kept
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"{'https' if tls else 'http'}://localhost:{self._listener.getsockname()[1]}"
        self._heal = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.received = 0
        self.reset = False
        self._thread.start()

    def _run(self) -> None:
        raw, _ = self._listener.accept()
        connection: Any = self._context.wrap_socket(raw, server_side=True) if self._context else raw
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.local_settings = Settings(client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        h2.initiate_connection()
        h2.increment_flow_control_window(2**30)
        connection.sendall(h2.data_to_send())
        while self._answers_first:
            for event in h2.receive_data(connection.recv(65536)):
                if isinstance(event, StreamEnded):
                    h2.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                    self._answers_first = False
            connection.sendall(h2.data_to_send())
        with self._listener, connection:
            self._heal.wait()
            plain = socket.socket(fileno=connection.detach())  # what is encrypted counts as well
            with plain:
                try:
                    while chunk := plain.recv(65536):
                        self.received += len(chunk)
                except ConnectionResetError:
                    self.reset = True

    def heal(self) -> None:
        self._heal.set()
        self._thread.join()


class Observed(Http2Transport):
    """Keeps its sockets in view and, if told, their buffers small, so that more waits in the event loop's."""

    def __init__(self, send_buffer: int | None = None) -> None:
        super().__init__()
        self._send_buffer = send_buffer
        self.sockets: list[socket.socket] = []

    def open_socket(self, address: tuple[Any, ...]) -> socket.socket:
        sock = super().open_socket(address)
        if self._send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self.sockets.append(sock)
        return sock


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Any) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
TLS = pytest.mark.parametrize("tls", [True, False], ids=["tls", "clear"])
HELD = pytest.mark.parametrize(
    ("size", "send_buffer"),
    [(200_000, None), (200_000, 8192), (8_000_000, None)],
    ids=["held by the kernel", "held by the loop", "not all read yet"],
)


@LOOPS
@TLS
@HELD
def test_a_peer_that_heals_after_the_deadline_never_gets_the_request(loop_factory, tls, size, send_buffer):
    peer = StalledPeer(tls)

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            trust = H2Server().trust if tls else None
            assert (await failure(transport, request(peer.url, b"x" * size, trust=trust), SHORT)).written
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)  # the loop is alive, and would flush what it still held

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


@LOOPS
@TLS
@HELD
def test_a_cancelled_call_leaves_nothing_behind_either(loop_factory, tls, size, send_buffer):
    peer = StalledPeer(tls)

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            trust = H2Server().trust if tls else None
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send(transport, request(peer.url, b"x" * size, trust=trust)), SHORT)
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


async def test_a_cancelled_call_whose_bytes_have_left_costs_no_neighbour_its_connection():
    async with H2Server(first_ok()) as server, Http2Transport() as transport:
        await send(transport, request(server))
        neighbour, cancelled = sending(transport, request(server)), sending(transport, request(server))
        await server.until_complete(3)
        await until(lambda: _all_acknowledged(transport))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await server.requests[2].reset_by_client.wait()
        server.requests[1].answer(Answer())
        assert (await neighbour).status == 200
    assert len(server.connections) == 1


def _all_acknowledged(transport: Http2Transport) -> bool:
    connection = the_connection(transport)
    return bool(connection._acknowledged() == connection._handed)


async def test_a_cancelled_call_that_waits_for_room_is_forgotten():
    async with H2Server(hold) as server, Http2Transport(connections_max=1) as transport:
        first, second = sending(transport, request(server)), sending(transport, request(server))
        await server.until_complete(1)
        second.cancel()
        server.requests[0].answer(Answer())
        await first
        server.handler = lambda _: Answer()
        await send(transport, request(server))
    assert len(server.begun) == 2


async def test_neighbours_of_a_call_that_could_still_leave_are_in_doubt_too():
    peer = StalledPeer(tls=False, answers_first=True)
    async with Http2Transport() as transport:
        await send(transport, request(peer.url))
        neighbour = sending(transport, request(peer.url))
        await asyncio.sleep(0)
        assert (await failure(transport, request(peer.url, b"x" * 200_000), SHORT)).written
        error = await failed(neighbour)
        assert error.written
        assert error.detail == "the connection was closed with a call whose time was over"
        await asyncio.to_thread(peer.heal)
    assert peer.reset
    assert peer.received < 200_000


async def test_the_kernel_gives_up_should_we_not():
    """TCP_USER_TIMEOUT and the zero linger time are on the very socket that carries the request."""
    async with H2Server() as server, Http2Transport(user_timeout_seconds=7) as transport:
        await send(transport, request(server))
        sock = the_connection(transport)._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- the life of a connection ----------------------------------------------------------------------------------


def the_connection(transport: Http2Transport) -> Any:
    (pool,) = transport._pools.values()
    (connection,) = pool._connections
    return connection


async def test_a_connection_that_was_quiet_is_asked_before_it_is_used():
    async with H2Server() as server, Http2Transport() as transport:
        for _ in range(3):
            assert (await send(transport, request(server))).status == 200
            the_connection(transport)._heard_at -= 61
    assert len(server.connections) == 1
    assert server.connections[0].pings == 2


async def test_a_connection_that_died_in_silence_is_replaced_before_anything_is_written():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server))
        the_connection(transport)._heard_at -= 61
        server.connections[0].data_received = lambda data: None  # a NAT that forgot it would be as quiet
        assert (await send(transport, request(server))).status == 200
        await server.connections[0].closed.wait()
    assert [held.connection.number for held in server.requests] == [0, 1]


async def test_a_connection_seen_closed_is_replaced_before_writing():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server))
        (pool,) = transport._pools.values()
        server.connections[0].transport.close()
        await until(lambda: not pool._connections)
        assert (await send(transport, request(server))).status == 200
    assert len(server.connections) == 2


async def test_an_idle_connection_is_kept_alive_by_pings():
    async with H2Server() as server, Http2Transport(ping_every_seconds=0.01) as transport:
        await send(transport, request(server))
        await until(lambda: server.connections[0].pings > 2)
        await send(transport, request(server))
    assert len(server.connections) == 1


async def test_a_connection_nobody_uses_is_closed():
    async with H2Server() as server, Http2Transport(ping_every_seconds=0.01, idle_seconds_max=0.05) as transport:
        await send(transport, request(server))
        await server.connections[0].closed.wait()


async def test_a_connection_out_of_stream_numbers_gives_way_to_another():
    async with H2Server() as server, Http2Transport() as transport:
        await send(transport, request(server))
        the_connection(transport)._h2.highest_outbound_stream_id = 2**31 - 3
        for _ in range(2):
            assert (await send(transport, request(server))).status == 200
    assert [held.stream for held in server.requests] == [1, 2**31 - 1, 1]


async def test_a_connection_that_breaks_as_a_call_starts_takes_no_other_with_it(monkeypatch):
    async with H2Server(hold) as server, Http2Transport() as transport:
        calls = [sending(transport, request(server)) for _ in range(4)]
        await server.until_complete(1)
        server.handler = lambda _: Answer()
        monkeypatch.setattr(the_connection(transport)._h2, "send_headers", _no_more)
        server.requests[0].answer(Answer())
        assert (await calls[0]).status == 200
        assert (await failed(calls[1])).written
        assert [answer.status for answer in await asyncio.gather(*calls[2:])] == [200, 200]
    assert len(server.connections) == 2


def _no_more(*args: object, **options: object) -> None:
    raise NoAvailableStreamIDError


async def test_closing_ends_calls_and_connections():
    async with H2Server(hold) as server:
        transport = Http2Transport()
        begun, waiting = sending(transport, request(server)), sending(transport, request(server))
        await server.until_complete(1)
        connecting = sending(transport, request(f"http://127.0.0.1:{server.port}", pool="other"))
        await asyncio.sleep(0)
        await transport.aclose()
        assert (await failed(begun)).written
        assert not (await failed(waiting)).written
        assert not (await failed(connecting)).written
        await server.connections[0].closed.wait()


@LOOPS
@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_peer_does_what_was_not_written_was_not_processed(loop_factory, seed):
    """Chance decides how the peer ends each call, and who loses patience. Every call ends, none is sent twice, and what
    was said not to be written was nowhere processed."""
    chance = random.Random(seed)
    processed: list[str] = []

    def whim(held: Request) -> Answer | None:
        match chance.choices(range(7), (60, 5, 5, 3, 2, 5, 5))[0]:
            case 1:
                held.reset(ErrorCodes.REFUSED_STREAM)
                return None
            case 2:
                held.connection.goaway(max(0, held.stream - 2))  # not even this one
                return None
            case 3:
                processed.append(held.path)
                held.connection.drop()
                return None
            case 4:
                held.connection.drop()
                return None
            case 5:
                processed.append(held.path)  # and never a word
                return None
            case 6:
                processed.append(held.path)
                held.reset(ErrorCodes.INTERNAL_ERROR)
                return None
        processed.append(held.path)
        return Answer(200, {}, held.path.encode())

    async def one(transport: Http2Transport, server: H2Server, number: int) -> tuple[str, bool]:
        path = f"/{number}"
        try:
            async with asyncio.timeout(chance.choice([0.02, 60, 60])):
                answer = await send(transport, request(server, b"x" * chance.randrange(3000), path), 2 * SHORT)
        except TransportError as error:
            return path, error.written
        except TimeoutError:
            return path, True
        assert answer.body == path.encode()
        return path, True

    async def main() -> None:
        async with H2Server(whim, streams_max=20) as server, Http2Transport(connections_max=4) as transport:
            ends = await asyncio.gather(*(one(transport, server, number) for number in range(300)))
        assert not server.errors
        assert len(set(processed)) == len(processed)
        assert not set(processed) & {path for path, written in ends if not written}

    run_on(loop_factory, main())


@LOOPS
def test_thousands_of_calls_get_their_own_answers(loop_factory):
    async def main() -> None:
        echo = lambda held: Answer(200, {"apns-id": held.path}, held.body)  # noqa: E731
        async with H2Server(echo, streams_max=1, streams_max_once_trusted=60) as server, Http2Transport() as transport:
            calls = [send(transport, request(server, str(n).encode() * 20, f"/{n}")) for n in range(2000)]
            for number, answer in enumerate(await asyncio.gather(*calls)):
                assert (answer.headers["apns-id"], answer.body) == (f"/{number}", str(number).encode() * 20)
        assert not server.errors
        assert max(connection.most_at_once for connection in server.connections) <= 60

    run_on(loop_factory, main())
