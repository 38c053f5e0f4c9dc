"""The one module that touches a socket on the way to a provider.

Two promises, and everything here serves one of them:

- **It knows whether anything was written.** Until a request is handed to a connection, a failure means that
  nothing was sent, and the attempt may be repeated. From then on a failure means that nobody knows (I5).
- **Nothing leaves after the deadline (I6).** A closed socket still delivers what it holds, seconds later,
  once the network heals. So a call that ends without an answer aborts its connection: the event loop's buffer
  is dropped, and the kernel's with it, because the socket's linger time is zero. Should this process be too
  busy to do so in time, TCP_USER_TIMEOUT makes the kernel give up on what the other side does not take.

No retries, redirects, cookies, proxies from the environment or decompression: one request, one answer.
"""

from __future__ import annotations

import asyncio
import io
import socket
import struct
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, Self

from aiohttp import (
    ClientError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from yarl import URL

from app.domain.models import Outcome, OutcomeKind
from app.providers.base import ProviderRequest, ProviderResponse

CONNECTIONS_MAX: Final = 200
KEEPALIVE_SECONDS: Final = 15.0  # shorter than load balancers' idle time: fewer races with their close
USER_TIMEOUT_SECONDS: Final = 10.0  # the longest call
RESPONSE_BYTES_MAX: Final = 64 * 1024
INLINE_BYTES_MAX: Final = 1024 * 1024  # larger bodies are written in pieces and do not block the loop

_ABORTIVE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: close resets, and drops what was not sent
_NO_TIMEOUT: Final = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class TransportError(Exception):
    """No answer came back.

    written: whether any of the request may have left; False is certain, True is only possible.
    detail: for operators; holds neither address nor body.
    """

    def __init__(self, *, written: bool, detail: str) -> None:
        super().__init__(detail)
        self.written = written
        self.detail = detail


def classify_transport_error(error: TransportError) -> Outcome:
    """Nothing written: surely not sent, try again. Otherwise unknown, and never just resent."""
    return Outcome(OutcomeKind.UNKNOWN if error.written else OutcomeKind.TRANSIENT, error.detail)


class _Call:
    """One request under way, and the connection it was handed to, if it got that far."""

    __slots__ = ("connection",)

    def __init__(self) -> None:
        self.connection: asyncio.Transport | None = None

    @property
    def written(self) -> bool:
        return self.connection is not None

    async def abort(self) -> None:
        """Drops the connection with all it holds; aiohttp has only closed it, which would still flush."""
        if self.connection is not None:
            self.connection.abort()
            await asyncio.sleep(0)  # the loop closes the socket in its next turn: only then is it over


_call: ContextVar[_Call] = ContextVar("call")


class _Request(ClientRequest):
    """Notes the moment from which bytes may be written, and where to."""

    async def send(self, conn: Connection) -> ClientResponse:
        _call.get().connection = conn.transport
        return await super().send(conn)


class Transport:
    """A pool of connections to providers, used as ``async with``. Let calls end before closing it."""

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_MAX,
        user_timeout_seconds: float = USER_TIMEOUT_SECONDS,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._connections_max = connections_max
        self._user_timeout_ms = int(user_timeout_seconds * 1000)
        self._response_bytes_max = response_bytes_max
        self._resolver = resolver
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(
                limit=self._connections_max,
                keepalive_timeout=KEEPALIVE_SECONDS,
                socket_factory=self._socket,
                resolver=self._resolver,
            ),
            request_class=_Request,
            cookie_jar=DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "Landed", "Accept": "*/*", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, request: ProviderRequest, deadline: float) -> ProviderResponse:
        """The provider's answer, whatever its status; TransportError when there is none by ``deadline``.

        ``deadline`` is the loop's time (``loop.time()``). A body over the limit is cut, its status counts.
        """
        assert self._session is not None, "the transport is used inside its context"
        if asyncio.get_running_loop().time() >= deadline:
            raise TransportError(written=False, detail="the deadline had passed before the call")
        call = _Call()
        token = _call.set(call)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._exchange(self._session, request)
        except (Exception, asyncio.CancelledError) as error:
            await call.abort()
            if isinstance(error, (ClientError, OSError, ValueError)):
                raise TransportError(written=call.written, detail=_describe(error)) from error
            raise
        finally:
            _call.reset(token)

    async def _exchange(self, session: ClientSession, request: ProviderRequest) -> ProviderResponse:
        body = request.body if len(request.body) <= INLINE_BYTES_MAX else io.BytesIO(request.body)
        response = await session.request(
            request.method,
            _url(request.url),
            headers=request.headers,
            data=body or None,
            allow_redirects=False,
        )
        try:
            content = await self._content(response)
        finally:
            response.release()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return ProviderResponse(response.status, headers, content)

    async def _content(self, response: ClientResponse) -> bytes:
        length = response.content_length
        if length is not None and length <= self._response_bytes_max:
            return await response.read()
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > self._response_bytes_max:
                response.close()
                break
        return bytes(content[: self._response_bytes_max])

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, *_ = address
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)
        return sock


@lru_cache(maxsize=64)
def _url(url: str) -> URL:
    return URL(url, encoded=True)


def _describe(error: Exception) -> str:
    """The kind of failure and the system's words for it, not the request's."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer before the deadline"
    words = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
