"""Who is asking: API keys, their scopes, and the guard that checks both.

A key reads ``lk_<8 characters>_<43 characters>``; the first part may be shown and logged, the second is 256
random bits. The database knows only the SHA-256 of the whole. Scopes are explicit: ``admin`` does not imply
``send`` or ``read``, so that a key which may change settings cannot also send unless someone said so.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler

from app.api.headers import header
from app.cache import Cache
from app.db import Database
from app.errors import Forbidden, Unauthenticated
from app.store import api_keys

Scope = Literal["send", "read", "admin"]

KEY = re.compile(r"lk_[a-z0-9]{8}_[A-Za-z0-9_-]{43}")
PREFIX_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
KEY_TTL_SECONDS = 30.0  # a lost invalidation lets a revoked key live no longer than this
# Unknown keys are kept too, so that guessing costs no queries; this bounds what guessing can fill.
KEYS_CACHED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant and key behind a request."""

    tenant_id: int
    tenant: str
    key_id: int
    scopes: frozenset[str]
    rate_per_second: int = 1000
    burst: int = 2000

    @property
    def actor(self) -> str:
        """Who did it, for the audit log."""
        return f"api key {self.key_id} of {self.tenant}"


CalledBy: TypeAlias = NamedDependency[Caller]
"""What a handler writes: ``caller: CalledBy``."""
Keys = Cache[bytes, Caller | None]


def mint_api_key() -> tuple[str, str, bytes]:
    """A new key: its text (shown once, never stored), its visible prefix, and the digest to store."""
    prefix = "".join(secrets.choice(PREFIX_ALPHABET) for _ in range(8))
    plain = f"lk_{prefix}_{secrets.token_urlsafe(32)}"
    return plain, prefix, digest_of(plain)


def digest_of(plain: str) -> bytes:
    return hashlib.sha256(plain.encode()).digest()


def keys_in(db: Database) -> Keys:
    """The keys of a database, cached; clear it on the ``landed_config`` channel and a revoked key dies
    at once.
    """

    async def find(digest: bytes) -> Caller | None:
        async with db.transaction() as conn:
            key = await api_keys.find(conn, digest)
        if key is None or not hmac.compare_digest(key.hash, digest):
            return None
        return Caller(
            tenant_id=key.tenant_id,
            tenant=key.tenant,
            key_id=key.key_id,
            scopes=frozenset(key.scopes),
            rate_per_second=key.rate_per_second,
            burst=key.burst,
        )

    return Cache(find, ttl_seconds=KEY_TTL_SECONDS, size_max=KEYS_CACHED_MAX)


async def authenticate(connection: ASGIConnection[Any, Any, Any, Any], scope: Scope) -> Caller:
    """The caller, who must hold ``scope``. Raises Unauthenticated or Forbidden."""
    keys: Keys = connection.app.state.api.keys
    caller = await keys.get(digest_of(_presented(connection)))
    if caller is None:
        raise Unauthenticated("this API key is not known, or was revoked")
    if scope not in caller.scopes:
        raise Forbidden(f"this API key has no scope {scope!r}; it has {', '.join(sorted(caller.scopes))}")
    return caller


def requires(
    scope: Scope,
) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]:
    """A guard: the request must carry a key with this scope. Handlers then take ``caller: Caller``."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        connection.scope["user"] = await authenticate(connection, scope)

    return guard


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """The dependency ``caller``; the handler must have a guard made by ``requires``."""
    caller: Caller = request.user
    return caller


def _presented(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The key in the headers. Raises Unauthenticated."""
    authorization, key = header(connection.scope, b"authorization"), header(connection.scope, b"x-api-key")
    if authorization is not None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the Authorization header must read 'Bearer lk_...'")
        if key is not None and key != value.strip():
            raise Unauthenticated("Authorization and X-API-Key carry different keys; send one")
        key = value.strip()
    if key is None:
        raise Unauthenticated("send an API key: 'Authorization: Bearer lk_...', or 'X-API-Key: lk_...'")
    if not KEY.fullmatch(key):
        raise Unauthenticated("this does not look like an API key: lk_, 8 characters, _, 43 characters")
    return key
