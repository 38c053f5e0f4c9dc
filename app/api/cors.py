"""Which pages of other origins may call us: those named in ``inbox.allow_origins``, on the routes that browsers use
themselves. A token is in the header, never in a cookie, so no credentials are ever allowed (WHATWG Fetch, 3.2).
"""

from __future__ import annotations

from litestar import Litestar
from litestar.types import Message, Scope

from app.api.headers import header

# What a page calls with a recipient's token: /api/v1/inbox and everything below it, and so on.
ROUTES = ("/api/v1/inbox", "/api/v1/devices", "/api/v1/receipts", "/api/v1/analytics/push-opened")
# What a device says of a push, wherever its app comes from: the token in the push is the proof, no page is.
FROM_ANYWHERE = ("/api/v1/receipts", "/api/v1/analytics/push-opened")
ANY = "*"
PREFLIGHT_HEADERS = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, last-event-id, idempotency-key"),
    (b"access-control-max-age", b"3600"),
)
EXPOSED_HEADERS = ((b"access-control-expose-headers", b"retry-after"),)


async def allow(message: Message, scope: Scope) -> None:
    """Litestar's hook on every message of every answer, refusals included: a page must be able to read why."""
    if message["type"] != "http.response.start" or not _is_for_browsers(scope["path"]):
        return
    headers = message["headers"] = [*message.get("headers", ()), (b"vary", b"origin")]
    origin = header(scope, b"origin")
    allowed = ANY.encode() if scope["path"] in FROM_ANYWHERE else _allowed(scope["litestar_app"], origin)
    if allowed is None:
        return
    headers.append((b"access-control-allow-origin", allowed))
    asks_first = scope.get("method") == "OPTIONS" and header(scope, b"access-control-request-method") is not None
    headers.extend(PREFLIGHT_HEADERS if asks_first else EXPOSED_HEADERS)


def _is_for_browsers(path: str) -> bool:
    return any(path == route or path.startswith(f"{route}/") for route in ROUTES)


def _allowed(app: Litestar, origin: str | None) -> bytes | None:
    """What to answer to this origin; None when it is not one of ours. Exact to the character (RFC 6454, 6.2)."""
    origins: tuple[str, ...] = app.state.api.settings.inbox.allow_origins
    if origin is None:
        return None
    if ANY in origins:
        return ANY.encode()
    return origin.encode("latin-1") if origin in origins else None
