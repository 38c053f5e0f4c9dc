"""A small HTTP/2 server whose every answer a test decides: a stand-in for APNs and other push gateways.

    async with H2Server(lambda request: Answer(200)) as server:
        ... server.url, server.trust (the CA bundle to believe), server.requests ...

The handler is called once a request is complete. It returns what to answer, or None and answers later through the
request. Requests and connections can be reset, refused, sent away and cut off as RFC 9113 provides.
"""

from __future__ import annotations

import asyncio
import atexit
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(eq=False)
class Request:
    """One request as it came, and the ways to end it. ``reset_by_client``: set once the client has called it off."""

    connection: Connection = field(repr=False)
    stream: int
    method: str
    path: str
    headers: dict[str, str]
    fields: list[Any] = field(repr=False)
    body: bytes = b""
    complete: bool = False
    reset_by_client: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, answer: Answer, *, end: bool = True) -> None:
        self.connection.answer(self.stream, answer, end=end)

    def reset(self, code: ErrorCodes) -> None:
        self.connection.h2.reset_stream(self.stream, code)
        self.connection.flush()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: H2Server) -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.open: dict[int, Request] = {}  # not yet answered
        self.seen: dict[int, Request] = {}
        self.last_stream = 2**31 - 1  # what is above it has been sent away
        self.most_at_once = 0
        self.pings = 0
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.number = len(self.server.connections)
        self.server.connections.append(self)
        self.h2.local_settings = Settings(client=False, initial_values={**self.server.settings})
        if self.server.silent:
            return
        self.h2.initiate_connection()
        if self.server.window:
            self.h2.increment_flow_control_window(self.server.window)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        if self.server.silent:
            return
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            self.server.errors.append(error)
            self.transport.abort()
            return
        for event in events:
            match event:
                case RequestReceived():
                    self._on_request(event)
                case DataReceived():
                    self._on_data(event)
                case StreamEnded():
                    self._on_ended(event)
                case StreamReset():
                    self.open.pop(event.stream_id, None)
                    self.seen[event.stream_id].reset_by_client.set()
                case PingReceived():
                    self.pings += 1
        if self.server.answers_pings or not any(isinstance(event, PingReceived) for event in events):
            self.flush()

    def _on_request(self, event: RequestReceived) -> None:
        fields = dict(event.headers)
        head = {name: value for name, value in fields.items() if not name.startswith(":")}
        head["host"] = head.get("host") or fields.get(":authority", "")
        request = Request(self, event.stream_id, fields[":method"], fields[":path"], head, list(event.headers))
        self.open[event.stream_id] = self.seen[event.stream_id] = request
        self.most_at_once = max(self.most_at_once, len(self.open))
        self.server.begun.append(request)

    def _on_data(self, event: DataReceived) -> None:
        self.seen[event.stream_id].body += event.data
        if self.server.reads_bodies:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _on_ended(self, event: StreamEnded) -> None:
        request = self.seen[event.stream_id]
        if event.stream_id > self.last_stream:
            return
        request.complete = True
        self.server.requests.append(request)
        answer = self.server.handler(request)
        self.server.arrived.set()
        if answer is not None:
            request.answer(answer)

    def answer(self, stream: int, answer: Answer, *, end: bool = True) -> None:
        headers = [(":status", str(answer.status)), *answer.headers.items()]
        self.h2.send_headers(stream, headers, end_stream=end and not answer.body)
        if answer.body:
            self.h2.send_data(stream, answer.body, end_stream=end)
        if end:
            self.open.pop(stream, None)
        if answer.status == 200 and self.server.streams_max_once_trusted:
            self.allow(self.server.streams_max_once_trusted)
        self.flush()

    def allow(self, streams_max: int) -> None:
        if self.h2.local_settings.max_concurrent_streams != streams_max:
            self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams_max})
            self.flush()

    def goaway(self, last_stream: int, code: ErrorCodes = ErrorCodes.NO_ERROR, data: bytes = b"") -> None:
        """Sends a GOAWAY; the streams up to ``last_stream`` may still be answered."""
        self.last_stream = min(self.last_stream, last_stream)
        state = self.h2.state_machine.state
        self.h2.close_connection(code, data, self.last_stream)
        self.h2.state_machine.state = state  # h2 would send nothing more
        self.flush()

    def drop(self) -> None:
        self.transport.abort()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())


class H2Server:
    """Serves on loopback while its context is open.

    streams_max: SETTINGS_MAX_CONCURRENT_STREAMS. streams_max_once_trusted: what a first 200 raises it to, as APNs does.
    stream_window: bytes of a request's body that may come unasked. window: added to the connection's 65,535.
    """

    def __init__(
        self,
        handler: Callable[[Request], Answer | None] = lambda request: Answer(),
        *,
        tls: bool = True,
        alpn: tuple[str, ...] = ("h2",),
        names: tuple[str, ...] = HOSTS,
        streams_max: int = 100,
        streams_max_once_trusted: int | None = None,
        stream_window: int = 65535,
        window: int = 0,
        reads_bodies: bool = True,
        answers_pings: bool = True,
        silent: bool = False,
        port: int = 0,
    ) -> None:
        self.handler = handler
        self.settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: streams_max,
            SettingCodes.INITIAL_WINDOW_SIZE: stream_window,
        }
        self.streams_max_once_trusted = streams_max_once_trusted
        self.window = window
        self.reads_bodies = reads_bodies
        self.answers_pings = answers_pings
        self.silent = silent
        self.connections: list[Connection] = []
        self.begun: list[Request] = []
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self.arrived = asyncio.Event()
        self._context = server_context(names, alpn) if tls else None
        self.port = port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
            await connection.closed.wait()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://localhost:{self.port}"

    @property
    def trust(self) -> str | None:
        return None if self._context is None else ca_file()

    async def until_begun(self, count: int) -> None:
        await until(lambda: len(self.begun) >= count)

    async def until_complete(self, count: int) -> None:
        await until(lambda: len(self.requests) >= count)


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until the condition holds; the test's own time limit ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - the condition is anything a test can see
        await asyncio.sleep(0.001)


@lru_cache(maxsize=1)
def authority() -> trustme.CA:
    return trustme.CA()


@lru_cache(maxsize=1)
def ca_file() -> str:
    directory = tempfile.TemporaryDirectory(prefix="landed-tests-ca-")
    atexit.register(directory.cleanup)
    path = Path(directory.name) / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return str(path)


@lru_cache(maxsize=8)
def server_context(names: tuple[str, ...] = HOSTS, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names).configure_cert(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
