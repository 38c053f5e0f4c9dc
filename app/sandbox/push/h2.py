"""HTTP/2 over TLS as APNs speaks it: every stream is a request, and its answer may be none at all."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

#: Streams at once, before and after a connection has shown a valid provider token.
STREAMS_AT_FIRST: Final = 1
STREAMS_ONCE_TRUSTED: Final = 1000
#: More than any notification has; the rest of a longer body is dropped.
MAX_BODY: Final = 65_536


@dataclass(slots=True, eq=False)
class Stream:
    """One request. ``headers`` has no pseudo-headers."""

    connection: Connection = field(repr=False)
    id: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray, repr=False)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.connection.answer(self, status, headers, body)

    def reset(self) -> None:
        """End this request without an answer."""
        self.connection.reset(self)

    def send_away(self, reason: str) -> None:
        """Tell the caller that this request and later ones were not processed, and to come back on a new connection."""
        self.connection.go_away(self, reason)


Handler = Callable[[Stream], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One caller's connection. A request is handled in a task of its own once it is complete."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._streams_max = STREAMS_AT_FIRST
        self._highest = 0  # of the streams that were handled
        self._last_stream: int | None = None  # after a GOAWAY: the last one that is answered
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        secured = transport.get_extra_info("ssl_object")
        if secured is None or secured.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        self._listener.connections.add(self)
        self._h2.local_settings = _announced(STREAMS_AT_FIRST)
        self._h2.initiate_connection()
        # What a caller sends before it has read that is refused below, stream by stream; h2 would cut the connection.
        self._h2.local_settings = _announced(STREAMS_ONCE_TRUSTED)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()  # h2 has a GOAWAY ready that says what was wrong
            self.abort(politely=True)
            return
        for event in events:
            match event:
                case RequestReceived():
                    self._begin(event)
                case DataReceived():
                    self._read(event)
                case StreamEnded():
                    self._end(event)
                case StreamReset():
                    self._forget(event.stream_id)
        self._flush()

    def trust(self) -> None:
        """A provider token was valid: let the caller open many streams."""
        if self._streams_max != STREAMS_ONCE_TRUSTED:
            self._streams_max = STREAMS_ONCE_TRUSTED
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_ONCE_TRUSTED})

    def answer(self, stream: Stream, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if not self._is_open(stream):
            return
        self._h2.send_headers(stream.id, [(":status", str(status)), *headers.items()], end_stream=not body)
        if body:
            self._h2.send_data(stream.id, body, end_stream=True)
        self._done(stream)

    def reset(self, stream: Stream) -> None:
        if self._is_open(stream):
            self._h2.reset_stream(stream.id, ErrorCodes.INTERNAL_ERROR)
            self._done(stream)

    def go_away(self, stream: Stream, reason: str) -> None:
        """Answer the streams that were handled, and close. The reason travels as APNs writes it.

        A stream that a later one has overtaken is refused on its own: GOAWAY can only speak of all from one on.
        """
        if not self._is_open(stream):
            return
        if self._highest > stream.id or self._last_stream is not None:
            self._h2.reset_stream(stream.id, ErrorCodes.REFUSED_STREAM)
        if self._last_stream is None:
            self._last_stream = self._highest if self._highest > stream.id else max(0, stream.id - 2)
            state = self._h2.state_machine.state
            debug = json.dumps({"reason": reason}).encode()
            self._h2.close_connection(ErrorCodes.NO_ERROR, debug, self._last_stream)
            self._h2.state_machine.state = state  # or h2 would not let the other streams be answered
        for unread in [other for other in self._streams if other > self._last_stream]:
            self._streams.pop(unread)
        self._done(stream)

    def abort(self, *, politely: bool = False) -> None:
        """Cut the connection; ``politely`` sends first what is still to be sent."""
        if self._transport is not None:
            self._transport.close() if politely else self._transport.abort()

    def _begin(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if self._last_stream is not None and stream_id > self._last_stream:
            return
        if len(self._streams) >= self._streams_max:
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        fields = [(str(name), str(value)) for name, value in event.headers]
        pseudo = {name: value for name, value in fields if name.startswith(":")}
        headers = {name: value for name, value in fields if not name.startswith(":")}
        self._streams[stream_id] = Stream(self, stream_id, pseudo[":method"], pseudo[":path"], headers)

    def _read(self, event: DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if (stream := self._streams.get(event.stream_id)) and len(stream.body) < MAX_BODY:
            stream.body += event.data

    def _end(self, event: StreamEnded) -> None:
        if stream := self._streams.get(event.stream_id):
            self._highest = max(self._highest, stream.id)
            task = asyncio.get_running_loop().create_task(self._handle(stream))
            self._tasks[stream.id] = task

    async def _handle(self, stream: Stream) -> None:
        try:
            await self._listener.handler(stream)
        finally:
            self._tasks.pop(stream.id, None)

    def _is_open(self, stream: Stream) -> bool:
        return stream.id in self._streams and self._transport is not None and not self._transport.is_closing()

    def _done(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        self._flush()
        if self._last_stream is not None and not self._streams:
            self.abort(politely=True)

    def _forget(self, stream_id: int) -> None:
        """The caller called a request off."""
        self._streams.pop(stream_id, None)
        if task := self._tasks.get(stream_id):
            task.cancel()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())


def _announced(streams_max: int) -> Settings:
    limits = {SettingCodes.MAX_CONCURRENT_STREAMS: streams_max, SettingCodes.MAX_HEADER_LIST_SIZE: MAX_BODY}
    return Settings(client=False, initial_values=limits)


class Listener:
    """Serves while it is open."""

    def __init__(self, handler: Handler, context: ssl.SSLContext) -> None:
        self.handler = handler
        self.connections: set[Connection] = set()
        self._context = context
        self._context.set_alpn_protocols(["h2"])
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2

    async def open(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=self._context)

    async def close(self) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        await self._server.wait_closed()
