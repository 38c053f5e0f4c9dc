"""The transports by kind: how a request travels is the provider's to say, what travelling promises is the same for all.

Every transport knows whether anything was written when it fails, and lets nothing leave after the deadline (I6).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Self

from app.providers.base import ProviderResponse, TransportKind
from app.providers.guarded import GuardedTransport
from app.providers.http2 import Http2Transport
from app.providers.smtp_transport import SmtpTransport
from app.providers.transport import Transport, TransportError
from app.settings import Endpoints


class AnyTransport(Protocol):
    """An open transport. ``request`` is what the provider's ``build`` gave."""

    async def send(self, request: Any, deadline: float) -> ProviderResponse:
        """The answer, whatever it says; TransportError when there is none by ``deadline`` (the loop's time)."""
        ...


class Nowhere:
    """For what never leaves the database: there is nowhere to send to."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def send(self, request: Any, deadline: float) -> ProviderResponse:
        raise TransportError(written=False, detail="a local provider is never called")


def open_transport(
    kind: TransportKind, *, connections_max: int, endpoints: Endpoints
) -> AbstractAsyncContextManager[AnyTransport]:
    """A transport of this kind, to be used as ``async with``. ``endpoints``: what user-given addresses may be."""
    match kind:
        case "http":
            return Transport(connections_max=connections_max)
        case "http2":
            return Http2Transport(connections_max=connections_max)
        case "guarded":
            return GuardedTransport(connections_max=connections_max, endpoints=endpoints)
        case "smtp":
            return SmtpTransport(connections_max=connections_max)
        case "local":
            return Nowhere()
