"""How a message travels to a mail server: the counterpart of ``transport`` for SMTP, with the same two promises.

- **It knows whether anything was written.** SMTP takes responsibility with its reply to the message alone (RFC 5321,
  4.1.1.4), so until the first byte of the message is written a failure means that nothing was sent. From then on,
  silence means that nobody knows (RFC 1047); a reply, whatever it says, is an answer.
- **Nothing leaves after the deadline (I6).** A call that ends without an answer aborts its connection, with a linger
  time of zero; TCP_USER_TIMEOUT does it should this process be too busy to. The clock is read again right before the
  message is written.

Connections are kept and used again. One that the server had closed is replaced, once, as long as MAIL has not been
answered: no message was under way on it.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Self, cast

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponse, SMTPResponseException, SMTPServerDisconnected

from app.providers.base import ProviderResponse, SmtpRequest
from app.providers.transport import TransportError

#: To one server with one login. Postfix allows a client 50 by default, and each class has a lane of its own.
CONNECTIONS_MAX: Final = 16
MESSAGES_MAX: Final = 100  # over one connection; many services close it there themselves
IDLE_SECONDS: Final = 20.0  # servers wait for minutes, and for 10 s when they are under stress
QUIT_SECONDS: Final = 1.0  # a courtesy, and not worth more
USER_TIMEOUT_SECONDS: Final = 10.0  # the longest call

_ABORTIVE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: close resets, and drops what was not sent
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_DOT: Final = re.compile(rb"^\.", re.MULTILINE)
_GO_AHEAD: Final = 354
_CLOSING: Final = 421


@dataclass(frozen=True, slots=True)
class _Server:
    """What requests must have in common to share a connection."""

    host: str
    port: int
    security: str
    username: str | None
    password: str | None = field(repr=False)
    trust: str | None
    local_hostname: str | None


class _Call:
    """One request under way: how far it got, and over which connection.

    phase: what the next reply answers: connect, ehlo, starttls, auth, mail, rcpt, data, final. Before that: wait.
    """

    __slots__ = ("connection", "deadline", "phase", "written")

    def __init__(self, deadline: float) -> None:
        self.connection: _Connection | None = None
        self.deadline = deadline
        self.phase = "wait"
        self.written = False

    def check_time(self) -> None:
        if asyncio.get_running_loop().time() >= self.deadline:
            raise TimeoutError


class SmtpTransport:
    """A pool of connections to mail servers, used as ``async with``. Let calls end before closing it.

    connections_max: to one server, and never more than CONNECTIONS_MAX.
    """

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_MAX,
        messages_max: int = MESSAGES_MAX,
        idle_seconds: float = IDLE_SECONDS,
        user_timeout_seconds: float = USER_TIMEOUT_SECONDS,
    ) -> None:
        self._connections_max = min(connections_max, CONNECTIONS_MAX)
        self._messages_max = messages_max
        self._idle_seconds = idle_seconds
        self._user_timeout_ms = int(user_timeout_seconds * 1000)
        self._pools: dict[_Server, _Pool] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for pool in self._pools.values():
            while (connection := pool.take()) is not None:
                self._part_with(connection)
        if self._farewells:
            await asyncio.wait(self._farewells)

    async def send(self, request: SmtpRequest, deadline: float) -> ProviderResponse:
        """The reply that settles it: to the message, or the first that refuses. TransportError when there is none by
        ``deadline`` (the loop's time).

        ``phase`` among its headers says what it answers. A 250 in phase ``starttls`` or ``auth`` is a greeting (EHLO)
        that does not offer what the request demands: nothing was sent. ``envelope-id`` is the request's own.
        """
        call = _Call(deadline)
        try:
            call.check_time()
            async with asyncio.timeout_at(deadline):
                reply = await self._exchange(request, call)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, (SMTPException, OSError, ValueError)):
                raise TransportError(written=call.written, detail=_describe(error, call.phase)) from error
            raise
        headers = {"phase": call.phase, "envelope-id": request.envelope_id or ""}
        return ProviderResponse(reply.code, headers, reply.message.encode("utf-8", "surrogateescape"))

    async def _exchange(self, request: SmtpRequest, call: _Call) -> SMTPResponse:
        pool = self._pool(request)
        async with pool.places:
            try:
                reply = await self._first_refusal_or_last(pool, request, call)
            except (Exception, asyncio.CancelledError):
                if call.connection is not None:
                    await call.connection.abort()
                raise
            if call.connection is not None:
                self._keep_or_part(pool, call.connection, reply)
            return reply

    async def _first_refusal_or_last(self, pool: _Pool, request: SmtpRequest, call: _Call) -> SMTPResponse:
        try:
            return await self._deliver(pool, request, call)
        except SMTPResponseException as refused:
            return _meant(SMTPResponse(refused.code, refused.message))

    async def _deliver(self, pool: _Pool, request: SmtpRequest, call: _Call) -> SMTPResponse:
        if (kept := pool.take()) is not None:
            call.connection = kept
            try:
                return await kept.deliver(request, call)
            except (SMTPException, OSError) as error:
                if not _was_stale(error, call):
                    raise
                await kept.abort()
        call.connection, call.phase = None, "connect"
        context = None if request.security == "none" else _tls_context(request.trust, _modified(request.trust))
        call.connection = _Connection(await self._connect(request, call), request, context)
        refusal = await call.connection.open(call)
        return await call.connection.deliver(request, call) if refusal is None else refusal

    # -- connections -----------------------------------------------------------------------------------------

    async def _connect(self, request: SmtpRequest, call: _Call) -> socket.socket:
        """A connected socket. Addresses are tried in their order, each with its share of the time that is left."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError("the name has no address")
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            sock = self._socket(family, kind, protocol)
            try:
                async with asyncio.timeout((call.deadline - loop.time()) / left):
                    await loop.sock_connect(sock, address)
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure

    def _socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)
        return sock

    def _pool(self, request: SmtpRequest) -> _Pool:
        server = _Server(
            request.host,
            request.port,
            request.security,
            request.username,
            request.password,
            request.trust,
            request.local_hostname,
        )
        pool = self._pools.get(server)
        if pool is None:
            pool = self._pools[server] = _Pool(self._connections_max)
        return pool

    def _keep_or_part(self, pool: _Pool, connection: _Connection, reply: SMTPResponse) -> None:
        if connection.ready and reply.code != _CLOSING and connection.messages < self._messages_max:
            expiry = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, pool, connection)
            pool.keep(connection, expiry)
        else:
            self._part_with(connection)

    def _expire(self, pool: _Pool, connection: _Connection) -> None:
        pool.forget(connection)
        self._part_with(connection)

    def _part_with(self, connection: _Connection) -> None:
        self._spawn(connection.quit())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


class _Pool:
    """The connections to one server: ``places`` bounds those in use, the rest wait here, the last used first."""

    def __init__(self, connections_max: int) -> None:
        self.places = asyncio.Semaphore(connections_max)
        self._kept: deque[tuple[_Connection, asyncio.TimerHandle]] = deque()

    def take(self) -> _Connection | None:
        while self._kept:
            connection, expiry = self._kept.pop()
            expiry.cancel()
            if connection.ready:
                return connection
        return None

    def keep(self, connection: _Connection, expiry: asyncio.TimerHandle) -> None:
        self._kept.append((connection, expiry))

    def forget(self, connection: _Connection) -> None:
        self._kept = deque(kept for kept in self._kept if kept[0] is not connection)


class _Connection:
    """One SMTP session. aiosmtplib speaks the protocol; what is written when, is seen to here."""

    def __init__(self, sock: socket.socket, request: SmtpRequest, context: ssl.SSLContext | None) -> None:
        self.messages = 0
        self._request = request
        self._transport: asyncio.WriteTransport | None = None
        self._dirty = False  # a transaction was begun and not completed
        self._open = False  # greeted, secured, logged in
        self._client = aiosmtplib.SMTP(
            hostname=request.host,
            sock=sock,
            use_tls=request.security == "tls",
            start_tls=False,
            tls_context=context,
            local_hostname=request.local_hostname,
            timeout=None,  # the deadline bounds all of it
        )

    @property
    def ready(self) -> bool:
        """Whether another message may follow. Nothing of the last one may still wait to be written."""
        transport = self._transport
        return (
            self._open and self._client.is_connected and transport is not None and not transport.get_write_buffer_size()
        )

    async def open(self, call: _Call) -> SMTPResponse | None:
        """Greets, secures and logs in; a greeting that does not offer what is demanded is returned in place of None."""
        client, request = self._client, self._request
        await client.connect()
        self._transport = cast(asyncio.WriteTransport, client.transport)
        call.phase = "ehlo"
        greeting = await client.ehlo()
        if request.security == "starttls":
            call.phase = "starttls"
            if not client.supports_extension("starttls"):
                return greeting
            await client.starttls()
            self._transport = cast(asyncio.WriteTransport, client.transport)
            call.phase = "ehlo"
            greeting = await client.ehlo()
        if request.username is not None:
            call.phase = "auth"
            if not await self._log_in(request.username, request.password or ""):
                return greeting
        self._open = True
        return None

    async def _log_in(self, username: str, password: str) -> bool:
        """Whether there was a way. One is tried, not all: a wrong password counts towards a lock-out each time."""
        offered = self._client.server_auth_methods
        match next((method for method in ("plain", "login", "cram-md5") if method in offered), None):
            case "plain":
                await self._client.auth_plain(username, password)
            case "login":
                await self._client.auth_login(username, password)
            case "cram-md5":
                await self._client.auth_crammd5(username, password)
            case _:
                return False
        return True

    async def deliver(self, request: SmtpRequest, call: _Call) -> SMTPResponse:
        """The reply to the message; SMTPResponseException for one that refuses before."""
        client = self._client
        content = _content(request.message)
        call.phase = "mail"
        if self._dirty:
            await client.rset()
        self._dirty = True
        await client.mail(request.envelope_from, options=self._mail_options(request, len(content)))
        call.phase = "rcpt"
        await client.rcpt(request.recipient, options=self._rcpt_options(request))
        call.phase = "data"
        reply = _meant(await client.execute_command(b"DATA"))
        if reply.code != _GO_AHEAD:
            return reply
        call.phase = "final"
        return await self._write(content, call)

    async def _write(self, content: bytes, call: _Call) -> SMTPResponse:
        protocol, transport = self._client.protocol, self._transport
        if protocol is None or transport is None or not protocol.is_connected:
            raise SMTPServerDisconnected("Connection lost")
        call.check_time()
        call.written = True
        protocol.write(_DOT.sub(b"..", content) + b".\r\n")
        reply = _meant(await protocol.read_response())
        self.messages += 1
        self._dirty = reply.code != 250
        if transport.get_write_buffer_size():
            # An answer to a message that is not all there. A refusal stands; what praise might mean, nobody knows.
            self._open = False
            await self.abort()
            if reply.code < 400:
                raise SMTPException("an answer before the message was written")
        return reply

    def _mail_options(self, request: SmtpRequest, size: int) -> list[str]:
        supports = self._client.supports_extension
        options = [f"SIZE={size}"] if supports("size") else []
        if supports("dsn"):
            options.append("RET=HDRS")
            if request.envelope_id:
                options.append(f"ENVID={_xtext(request.envelope_id)}")
        return options

    def _rcpt_options(self, request: SmtpRequest) -> list[str]:
        if not self._client.supports_extension("dsn"):
            return []
        notify = "SUCCESS,FAILURE,DELAY" if request.receipts else "FAILURE,DELAY"
        return [f"NOTIFY={notify}", f"ORCPT=rfc822;{_xtext(request.recipient)}"]

    async def quit(self) -> None:
        """Takes leave if the other side listens; then, or else, it is over."""
        try:
            if self.ready:
                async with asyncio.timeout(QUIT_SECONDS):
                    await self._client.quit()
        except (SMTPException, OSError):
            pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Drops the connection with all it holds; closing alone would still flush."""
        transport = self._transport or cast("asyncio.WriteTransport | None", self._client.transport)
        if transport is not None:
            transport.abort()
        self._client.close()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn: only then is it over


def _meant(reply: SMTPResponse) -> SMTPResponse:
    """Raises SMTPException for what is no reply; aiosmtplib gives nonsense the code -1."""
    if not 200 <= reply.code <= 599:
        raise SMTPException("not a reply of SMTP")
    return reply


def _was_stale(error: Exception, call: _Call) -> bool:
    """Whether a kept connection turned out to be over. A refused MAIL is an answer, unless it says goodbye."""
    if call.phase != "mail":
        return False
    return not isinstance(error, aiosmtplib.SMTPSenderRefused) or error.code == _CLOSING


@lru_cache(maxsize=16)
def _tls_context(trust: str | None, modified: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=trust)


def _modified(trust: str | None) -> int:
    """So that a bundle that was renewed is read again."""
    return 0 if trust is None else os.stat(trust).st_mtime_ns


def _content(message: bytes) -> bytes:
    """With CRLF, and nothing else, at the end of each line: a bare LF may hide the end of a message from one server and
    show it to the next.
    """
    content = _LINE_END.sub(b"\r\n", message)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def _xtext(text: str) -> str:
    """RFC 3461, 4."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def _describe(error: Exception, phase: str) -> str:
    """How far it got, the kind of failure, and the system's words for it; not the message's."""
    cause = error.__cause__ if isinstance(error, SMTPException) and error.__cause__ is not None else error
    if phase == "wait":
        return "the deadline passed before a connection was free"
    if isinstance(cause, TimeoutError) and cause.errno is None:
        return f"{phase}: no answer before the deadline"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{phase}: the certificate is not trusted: {cause.verify_message}"
    words = cause.strerror if isinstance(cause, OSError) else None
    return f"{phase}: {type(cause).__name__}: {words}" if words else f"{phase}: {type(cause).__name__}"
