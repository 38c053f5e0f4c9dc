"""The answers no framework offers: none at all, late, or a connection cut off."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.sandbox.faults import Faults

_RESET: Final = "sandbox.reset"
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class SandboxProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with an ASGI extension through which an application can reset its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_RESET: {"reset": self._reset}}

    def _reset(self) -> None:
        # Lingering for zero seconds makes the close a reset, which is what a dying peer looks like.
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()


class Reset:
    """Cut the connection without a byte of response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions: dict[str, Any] = scope["extensions"] or {}
        reset: Callable[[], None] = extensions[_RESET]["reset"]
        reset()
        await _disconnected(receive)


class Hold:
    """Say nothing until the caller gives up, a release comes, or ``seconds`` have passed."""

    def __init__(self, faults: Faults, *, seconds: float, released: ASGIApp, expired: ASGIApp) -> None:
        self._faults = faults
        self._seconds = seconds
        self._released = released
        self._expired = expired

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        released = asyncio.ensure_future(self._faults.released())
        done, waiting = await asyncio.wait({gone, released}, timeout=self._seconds, return_when="FIRST_COMPLETED")
        for task in waiting:
            task.cancel()
        if gone not in done:
            end = self._released if released in done else self._expired
            await end(scope, receive, send)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
