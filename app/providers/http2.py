"""Calls to providers over HTTP/2: many at once on a few connections, with the promises of ``transport.py``.

- **It knows whether anything was written.** A call waits, unwritten, until a connection has room for it. From its
  first frame on, a failure means that nobody knows, except where HTTP/2 says that the call was not processed: a
  stream above the last one a GOAWAY names, a stream refused (RFC 9113, 6.8 and 8.7).
- **Nothing leaves after the deadline (I6).** What a call has handed over lies in this process, in the kernel, or
  with the peer. TLS is done here and not by the event loop, so the bytes are counted as they are handed to the
  socket; the kernel says how many of them the peer has yet to acknowledge. A call whose last byte was acknowledged
  has left: its stream is reset and its neighbours go on. A call of which a single byte may still wait takes its
  connection with it, as in ``transport.py``: the socket is closed abortively, which drops both buffers. Its
  neighbours cannot be spared, because TCP delivers them all or none; and they lose little, because a connection
  on which nothing was acknowledged for the whole life of a call is dead. Should this process be too busy,
  TCP_USER_TIMEOUT ends it.

No retries, redirects, cookies, proxies or decompression: one request, one answer.

A new connection carries one call until its first success: APNs allows no more before it has seen a valid token, and
a server in trouble is met by one call and not by a hundred. Another connection is only opened once the ones there
are full, and one at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.transport import RESPONSE_BYTES_MAX, TransportError

CONNECTIONS_MAX: Final = 200  # to one origin; a few do, unless the peer allows few streams on each
STREAMS_MAX: Final = 100  # calls on one connection, however many the peer allows: so many share its fate
CONNECT_SECONDS_MAX: Final = 3.0  # below the 5 s of a push: who waits for a connection learns that there is none
USER_TIMEOUT_SECONDS: Final = 5.0  # the longest call over this transport
START_SECONDS_MIN: Final = 0.25  # a call that has waited starts only with time left for its bytes to be acknowledged
PING_EVERY_SECONDS: Final = 3600.0  # Apple: keep connections open, and check them after an hour of silence
IDLE_SECONDS_MAX: Final = 86400.0  # nobody has called for a day: the account or its key is no longer used
SILENCE_SECONDS_MAX: Final = 60.0  # NATs and load balancers forget quiet connections without a word: ask first
PONG_SECONDS_MAX: Final = 1.0
GOAWAY_REASON_CHARS_MAX: Final = 60
RECEIVE_WINDOW: Final = 1024 * 1024  # of a whole connection; a stream keeps HTTP/2's own 65,535
UNDIGESTED_BYTES_MAX: Final = 64 * 1024  # a frame has 16 KB at the most, as we have not agreed to more
TLS_READ_BYTES: Final = 64 * 1024

_ABORTIVE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: close resets, and drops what was not sent
_UNSEEN: Final = (401, 403, 429)  # answers that do not show that the peer took our token
_PING: Final = b"landed\0\0"

# h2's checks of what we send cost a quarter of a call; ``_encode`` makes those that matter.
_CONFIG: Final = H2Configuration(
    client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)

#: Header fields that differ from call to call, or are secret: as literals they neither fill the peer's small table
#: nor stay in it (RFC 7541, 7.1.3; Apple asks for the same).
_NEVER_INDEXED: Final = frozenset(
    {b":path", b"authorization", b"content-length", b"apns-id", b"apns-expiration", b"apns-collapse-id"}
)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1
_NOT_FOR_HTTP2: Final = frozenset({b"connection", b"host", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"})
_ILLEGAL: Final = re.compile(r"[^\t\x20-\x7e]")  # CR and LF above all
_PATH: Final = re.compile(r"/[\x21-\x22\x24-\x7e]*")


class Http2Transport:
    """Connections to providers that speak HTTP/2, used as ``async with``. Let calls end before closing it.

    ``https`` needs a peer that agrees to HTTP/2 (ALPN); ``http`` is HTTP/2 with prior knowledge, for loopback.
    """

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_MAX,
        streams_max: int = STREAMS_MAX,
        user_timeout_seconds: float = USER_TIMEOUT_SECONDS,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
        silence_seconds_max: float = SILENCE_SECONDS_MAX,
        ping_every_seconds: float = PING_EVERY_SECONDS,
        idle_seconds_max: float = IDLE_SECONDS_MAX,
    ) -> None:
        self.connections_max = connections_max
        self.streams_max = streams_max
        self.response_bytes_max = response_bytes_max
        self.silence_seconds_max = silence_seconds_max
        self.ping_every_seconds = ping_every_seconds
        self.idle_seconds_max = idle_seconds_max
        self._user_timeout_ms = int(user_timeout_seconds * 1000)
        self._pools: dict[tuple[str, str | None, str], _Pool] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends every connection. Calls still under way fail as if the peer had."""
        self._closed = True
        for pool in self._pools.values():
            await pool.aclose()

    async def send(self, request: ProviderRequest, deadline: float) -> ProviderResponse:
        """The provider's answer, whatever its status; TransportError when there is none by ``deadline``.

        ``deadline`` is the loop's time (``loop.time()``). A body over the limit is cut, its status counts.
        """
        loop = asyncio.get_running_loop()
        assert not self._closed, "the transport is used inside its context"
        if loop.time() >= deadline:
            raise TransportError(written=False, detail="the deadline had passed before the call")
        try:
            origin, headers = _encode(request)
            pool = self._pool(origin, request.trust, request.pool)
        except ValueError as error:
            raise TransportError(written=False, detail=f"not a request: {error}") from error
        call = _Call(headers, request.body, deadline, loop.create_future())
        timer = loop.call_at(deadline, call.expire)
        try:
            pool.submit(call)
            return await call.answer
        except asyncio.CancelledError:
            call.abandon()
            await asyncio.sleep(0)
            raise
        except TransportError:
            await asyncio.sleep(0)  # an aborted socket is closed in the loop's next turn: only then is it over
            raise
        finally:
            timer.cancel()

    def _pool(self, origin: str, trust: str | None, name: str) -> _Pool:
        key = (origin, trust, name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(self, *_parse(origin), trust)
        return pool

    def open_socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket that gives up in the kernel too, and whose close drops what has not left."""
        family, kind, protocol, *_ = address
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)
        return sock


class _Call:
    """One request, from being handed in until it is answered or given up.

    connection: what it was written to, None while nothing was. end: where its last byte lies among all the bytes
    ever handed to that connection's socket. unsent: what the peer's flow control has not let us hand over.
    """

    __slots__ = (
        "answer",
        "connection",
        "content",
        "deadline",
        "end",
        "fields",
        "headers",
        "status",
        "stream",
        "unsent",
    )

    def __init__(
        self, headers: list[HeaderTuple], body: bytes, deadline: float, answer: asyncio.Future[ProviderResponse]
    ) -> None:
        self.headers = headers
        self.unsent: bytes | memoryview = body
        self.deadline = deadline
        self.answer = answer
        self.connection: _Connection | None = None
        self.stream = 0
        self.end = 0
        self.status = 0
        self.fields: dict[str, str] = {}
        self.content = b""

    def fail(self, detail: str, *, written: bool) -> None:
        if not self.answer.done():
            self.answer.set_exception(TransportError(written=written, detail=detail))

    def expire(self) -> None:
        """Its deadline has come."""
        if self.answer.done():
            return
        if self.connection is None:
            self.fail("no connection had room before the deadline", written=False)
        else:
            self.fail("no answer before the deadline", written=True)
            self.abandon()

    def abandon(self) -> None:
        """From now on nothing of it may leave."""
        if self.connection is not None:
            self.connection.abandon(self)


class _Pool:
    """The connections to one origin under one name, and the calls that wait for room on them, in their order."""

    def __init__(self, transport: Http2Transport, scheme: str, host: str, port: int, trust: str | None) -> None:
        self.transport = transport
        self.tls = scheme == "https"
        self.host = host
        self._port = port
        self._trust = trust
        self._waiting: deque[_Call] = deque()
        self._connections: list[_Connection] = []  # those that take calls, sooner or later
        self._leaving: set[_Connection] = set()  # those that finish what they have
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, call: _Call) -> None:
        """Starts the call now if there is room, else as soon as there is."""
        connection = None if self._waiting else self._with_room(call)
        if connection is None:
            self._waiting.append(call)
            self.advance()
        else:
            connection.start(call)

    def advance(self) -> None:
        """Starts the calls there is room for; if that is not all of them, asks for another connection."""
        now = asyncio.get_running_loop().time()
        while self._waiting and not self._closed:
            call = self._waiting[0]
            connection = None if call.answer.done() else self._with_room(call)
            if connection is None and not call.answer.done():
                return self._grow()
            self._waiting.popleft()  # before it starts: what fails at once comes back here
            if connection is None:
                continue
            # With less time left it might expire before its bytes can be acknowledged, at its neighbours' cost.
            if call.deadline - now > START_SECONDS_MIN:
                connection.start(call)
            else:
                call.fail("no connection had room before the deadline", written=False)

    def _with_room(self, call: _Call) -> _Connection | None:
        return next((connection for connection in self._connections if connection.takes(call)), None)

    def _grow(self) -> None:
        """Another connection, unless one is on its way or about to have room for many."""
        if self._connecting is not None or any(connection.unproven for connection in self._connections):
            return
        if len(self._connections) < self.transport.connections_max:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                connection = await self._open()
        except (OSError, ValueError, RuntimeError) as error:  # of uvloop's connect, RuntimeError too
            self._connecting = None
            self._fail_waiting(_describe(error))
        else:
            self._connecting = None
            self._connections.append(connection)
            self.advance()

    async def _open(self) -> _Connection:
        """A connection that has proven to speak HTTP/2; nothing of any call was written before that."""
        loop = asyncio.get_running_loop()
        context = _tls_context(self._trust) if self.tls else None
        addresses = await loop.getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=0.25, loop=loop, socket_factory=self.transport.open_socket
        )
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self, context), sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            await connection.ready
        except BaseException:
            connection.abort("the connection was given up")
            await connection.closed
            raise
        if not connection.usable:
            raise ConnectionError("closed by the provider at once")
        return connection

    def _fail_waiting(self, detail: str) -> None:
        """Nobody waits in vain for a connection that is not to be had, unless there are others to wait for."""
        while self._waiting and not self._connections:
            self._waiting.popleft().fail(detail, written=False)

    def leave(self, connection: _Connection) -> None:
        """The connection takes no more calls, but finishes those it has."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._leaving.add(connection)

    def lost(self, connection: _Connection) -> None:
        """The connection is no more."""
        self._leaving.discard(connection)
        if connection in self._connections:
            self._connections.remove(connection)
        self.advance()

    async def aclose(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connections = [*self._connections, *self._leaving]
        for connection in connections:
            connection.abort("the transport was closed")
        for connection in connections:
            await connection.closed
        while self._waiting:
            self._waiting.popleft().fail("the transport was closed", written=False)


class _Connection(asyncio.Protocol):
    """One connection: bytes between a socket and h2, through TLS, and the calls that are open on it.

    ready: done once the peer has shown that it speaks HTTP/2. closed: done once the socket is gone.
    """

    def __init__(self, pool: _Pool, context: ssl.SSLContext | None) -> None:
        self._pool = pool
        self._limits = pool.transport
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._h2 = _new_h2()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=pool.host)
        self._secured = context is None
        self._calls: dict[int, _Call] = {}
        self._blocked: dict[int, _Call] = {}  # those whose body the peer's window does not let out
        self._undigested = 0  # bytes since the last frame was whole; h2 would gather 16 MB
        self._handed = 0  # bytes ever handed to the socket, as the peer acknowledges them
        self._peer_streams_max = 0  # until its settings have come
        self._proven = False  # a call has succeeded: more than one at a time may follow
        self._going = False  # the peer wants no more calls
        self._paused = False  # the socket takes no more for now
        self._failed = False
        self._heard_at = self._used_at = self._loop.time()
        self._pong_timer: asyncio.TimerHandle | None = None
        self._idle_timer = self._loop.call_later(self._limits.ping_every_seconds, self._look_if_alive)

    # -- calls -------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return not (self._failed or self._going)

    @property
    def unproven(self) -> bool:
        """About to have room for many, or to be found dead: worth waiting for."""
        return not self._proven or self._pong_timer is not None

    def takes(self, call: _Call) -> bool:
        """Whether there is room for this call now. Asks a connection that was quiet for long whether it is alive."""
        streams_max = self._limits.streams_max if self._proven else 1
        if self._going or self._paused or len(self._calls) >= min(streams_max, self._peer_streams_max):
            return False
        if self._loop.time() - self._heard_at > self._limits.silence_seconds_max:
            self._ping()
        if self._pong_timer is not None:
            return False
        # A call that no window lets out would be half written; but with nothing open, nothing will widen the window.
        return not self._calls or self._h2.outbound_flow_control_window >= len(call.unsent)

    def start(self, call: _Call) -> None:
        """Writes the call. From here on it may have been sent."""
        call.connection = self
        call.stream = self._h2.get_next_available_stream_id()
        self._calls[call.stream] = call
        self._used_at = self._loop.time()
        try:
            self._h2.send_headers(call.stream, call.headers, end_stream=not call.unsent)
            self._send_body(call)
        except H2Error as error:  # of a connection whose state we have lost track of
            return self.abort(_describe(error))
        self._flush()
        call.end = self._handed
        if call.stream >= H2Connection.HIGHEST_ALLOWED_STREAM_ID - 1:
            self._go()

    def _send_body(self, call: _Call) -> None:
        """As much of the body as the peer's window and our buffer take."""
        while call.unsent and not self._paused:
            size = min(
                len(call.unsent), self._h2.local_flow_control_window(call.stream), self._h2.max_outbound_frame_size
            )
            if size <= 0:
                break
            part, call.unsent = call.unsent[:size], memoryview(call.unsent)[size:]
            self._h2.send_data(call.stream, part, end_stream=not call.unsent)
            if call.unsent:
                self._flush()  # so that the socket can say when it has enough
        if call.unsent:
            self._blocked[call.stream] = call
        else:
            self._blocked.pop(call.stream, None)

    def _resume_bodies(self) -> None:
        for call in list(self._blocked.values()):
            self._send_body(call)
            self._flush()
            call.end = self._handed

    def abandon(self, call: _Call) -> None:
        """Nothing of this call may leave any more: see the module's second promise."""
        if self._remove(call.stream) is None:
            return
        if call.end <= self._acknowledged():
            self._cancel(call.stream)
            self._flush()
            self._after_calls()
        else:
            self.abort("the connection was closed with a call whose time was over")

    def _acknowledged(self) -> int:
        """How many of the bytes handed to the socket the peer's kernel has. The rest may still leave, or once more."""
        transport = self._transport
        if transport.is_closing():
            return 0
        queue = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self._handed - transport.get_write_buffer_size() - int(struct.unpack("i", queue)[0])

    def _remove(self, stream: int) -> _Call | None:
        self._blocked.pop(stream, None)
        return self._calls.pop(stream, None)

    def _after_calls(self) -> None:
        """Room may have come free; a connection that is leaving ends with its last call."""
        if self._going and not self._calls:
            self.abort("nothing is left to do")
        elif not self._failed:
            self._pool.advance()

    # -- the end -----------------------------------------------------------------------------------------------

    def abort(self, detail: str) -> None:
        """Drops the connection with all it holds. Its calls may or may not have been processed."""
        if self._failed:
            return
        self._failed = self._going = True
        self._transport.abort()
        self._stop_timers()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(detail))
            self.ready.exception()  # whoever opened it may have given up: then nobody asks
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(detail, written=True)
        self._pool.lost(self)

    def _go(self) -> None:
        self._going = True
        self._pool.leave(self)

    def _stop_timers(self) -> None:
        self._idle_timer.cancel()
        if self._pong_timer is not None:
            self._pong_timer.cancel()

    def _look_if_alive(self) -> None:
        """Keeps a connection that is quiet for an hour known to whoever stands between, and ends one nobody uses."""
        now = self._loop.time()
        quiet = now - self._heard_at
        if now - self._used_at >= self._limits.idle_seconds_max:
            return self.abort("unused for too long")
        if quiet >= self._limits.ping_every_seconds:
            quiet = 0.0
            self._ping()
        self._idle_timer = self._loop.call_later(self._limits.ping_every_seconds - quiet, self._look_if_alive)

    def _ping(self) -> None:
        if self._pong_timer is None:
            self._pong_timer = self._loop.call_later(PONG_SECONDS_MAX, self.abort, "no answer to a PING")
            self._h2.ping(_PING)
            self._flush()

    # -- the socket ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._secured:
            self._flush()
        else:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        self._heard_at = self._loop.time()
        try:
            self._read(data)
        except (H2Error, OSError, ValueError) as error:
            self.abort(_describe(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(_describe(exc) if exc else "closed by the provider")
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._failed:
            self._resume_bodies()
            self._pool.advance()

    def _read(self, data: bytes) -> None:
        if self._tls is None:
            return self._receive(data)
        self._incoming.write(data)
        if self._secured or self._shake_hands():
            plain, ended = self._decrypt(self._tls)
            self._receive(plain)
            if ended:
                self.abort("closed by the provider")
        self._write_encrypted()  # what TLS itself has to say

    def _shake_hands(self) -> bool:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write_encrypted()
            return False
        if self._tls.selected_alpn_protocol() != "h2":
            raise ConnectionError("the provider does not speak HTTP/2")
        self._secured = True
        self._flush()
        return True

    def _decrypt(self, tls: ssl.SSLObject) -> tuple[bytes, bool]:
        """All that has arrived, and whether the peer has ended the session."""
        parts = []
        try:
            while part := tls.read(TLS_READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts), False
        except ssl.SSLZeroReturnError:
            pass
        return b"".join(parts), True

    def _flush(self) -> None:
        """Hands all frames to the socket, so that h2 never holds any that could leave later."""
        data = self._h2.data_to_send()
        if not data or self._failed:
            return
        if self._tls is None:
            self._handed += len(data)
            self._transport.write(data)
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._write_encrypted()

    def _write_encrypted(self) -> None:
        data = self._outgoing.read()
        if data and not self._failed:
            self._handed += len(data)
            self._transport.write(data)

    # -- frames --------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        if not data:
            return
        events = self._h2.receive_data(data)
        self._undigested = 0 if events else self._undigested + len(data)
        if self._undigested > UNDIGESTED_BYTES_MAX:
            raise ConnectionError("the provider sent a frame of a size never agreed to")
        for event in events:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)
        # Only now do we know all that h2 knows: before, a stream might have ended there and not here.
        self._flush()
        self._resume_bodies()
        self._after_calls()

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        self._peer_streams_max = self._h2.remote_settings.max_concurrent_streams
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_response(self, event: ResponseReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            call.status = int(fields.pop(":status"))
            call.fields = fields

    def _on_data(self, event: DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.content += event.data
            if len(call.content) > self._limits.response_bytes_max:
                call.content = call.content[: self._limits.response_bytes_max]
                self._finish(call)
                self._cancel(event.stream_id)

    def _on_ended(self, event: StreamEnded) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            self._finish(call)
            if call.unsent:  # answered before it was asked in full
                self._cancel(event.stream_id)

    def _finish(self, call: _Call) -> None:
        self._remove(call.stream)
        if not call.answer.done():
            call.answer.set_result(ProviderResponse(call.status, call.fields, call.content))
        if not self._proven and call.status < 500 and call.status not in _UNSEEN:
            self._proven = True

    def _cancel(self, stream: int) -> None:
        with suppress(ProtocolError):  # it may have ended meanwhile
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)

    def _on_reset(self, event: StreamReset) -> None:
        call = self._remove(event.stream_id)
        if call is not None:
            refused = event.remote_reset and event.error_code == ErrorCodes.REFUSED_STREAM
            call.fail(f"reset by the provider: {_name_of(event.error_code)}", written=not refused)

    def _on_goaway(self, event: ConnectionTerminated) -> None:
        self._go()
        detail = f"GOAWAY: {_name_of(event.error_code)} {_goaway_reason(event.additional_data)}".rstrip()
        for stream in [stream for stream in self._calls if stream > (event.last_stream_id or 0)]:
            call = self._remove(stream)
            if call is not None:
                call.fail(detail, written=False)

    def _on_pong(self, event: PingAckReceived) -> None:
        if self._pong_timer is not None and event.ping_data == _PING:
            self._pong_timer.cancel()
            self._pong_timer = None


_HANDLERS: Final[Mapping[type[Event], Callable[[_Connection, Any], None]]] = {
    RemoteSettingsChanged: _Connection._on_settings,
    ResponseReceived: _Connection._on_response,
    DataReceived: _Connection._on_data,
    StreamEnded: _Connection._on_ended,
    StreamReset: _Connection._on_reset,
    ConnectionTerminated: _Connection._on_goaway,
    PingAckReceived: _Connection._on_pong,
}


# -- h2 --------------------------------------------------------------------------------------------------------------


class _StateMachine(H2ConnectionStateMachine):
    """h2 reads nothing more after a GOAWAY; RFC 9113, 6.8 lets the streams it spares go on to their end."""

    _transitions = H2ConnectionStateMachine._transitions | {
        (ConnectionState.IDLE, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.IDLE),
        (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN),
    }


class _Encoder(Encoder):
    """Without Huffman coding, which in Python costs a third of a call and saves a hundred bytes."""

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        return super().encode(headers, huffman)


def _new_h2() -> H2Connection:
    connection = H2Connection(_CONFIG)
    connection.state_machine = _StateMachine()
    connection.encoder = _Encoder()
    connection.local_settings = Settings(
        client=True,
        initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: 16 * 1024},
    )
    connection.initiate_connection()
    connection.increment_flow_control_window(RECEIVE_WINDOW)
    return connection


def _name_of(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"error {code}"


def _goaway_reason(data: bytes | None) -> str:
    """APNs says why in JSON; of anything else nothing is believed."""
    try:
        reason = json.loads(data or b"{}")["reason"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return re.sub(r"\W", "", str(reason), flags=re.ASCII)[:GOAWAY_REASON_CHARS_MAX]


# -- requests --------------------------------------------------------------------------------------------------------


def _encode(request: ProviderRequest) -> tuple[str, list[HeaderTuple]]:
    """The origin, and the header fields for it. Raises ValueError for what is no request."""
    scheme, _, rest = request.url.partition("://")
    authority, slash, path = rest.partition("/")
    if not _PATH.fullmatch(slash + path):
        raise ValueError("the URL has no valid path")
    if _ILLEGAL.search("".join(request.headers.values())):
        raise ValueError("a header field has characters that none may have")
    given = (*request.headers.items(), ("content-length", str(len(request.body))), ("user-agent", "Landed"))
    fields = [
        (b":method", request.method.encode()),
        (b":scheme", scheme.encode()),
        (b":authority", authority.encode("ascii")),
        (b":path", (slash + path).encode()),
        *((_name(name), value.encode()) for name, value in given),
    ]
    tuples = [(NeverIndexedHeaderTuple if name in _NEVER_INDEXED else HeaderTuple)(name, v) for name, v in fields]
    return f"{scheme}://{authority}", tuples


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    lower = name.lower().encode("latin-1", "replace")
    if not _NAME.fullmatch(name) or lower in _NOT_FOR_HTTP2:
        raise ValueError(f"{name!r} is not a header field of HTTP/2")
    return lower


def _parse(origin: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for what is no origin."""
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.path or parts.query:
        raise ValueError("the URL must start with http(s)://host[:port]/")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _tls_context(trust: str | None) -> ssl.SSLContext:
    """A bundle of our own is read for every connection: a sandbox makes itself a new CA when it likes."""
    return _system_context() if trust is None else _context(trust)


@lru_cache(maxsize=1)
def _system_context() -> ssl.SSLContext:
    return _context(None)


def _context(trust: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, 9.2; Apple
    context.set_alpn_protocols(["h2"])
    return context


def _describe(error: Exception) -> str:
    """The kind of failure and the system's words for it, not the request's."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no connection within {CONNECT_SECONDS_MAX:g} s"
    words = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, ConnectionError) and words is None:
        return str(error)  # our own
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
