"""API keys and their rate buckets. A key is known by the SHA-256 of its text; the text itself is never
stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from psycopg.rows import class_row, scalar_row

from app.db import Connection
from app.store._queries import load

_q = load("api_keys")
FIND, INSERT, REVOKE = _q["find"], _q["insert"], _q["revoke"]
TAKE_TOKENS, NOTE_REFUSED = _q["take_tokens"], _q["note_refused"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    key_id: int
    tenant_id: int
    tenant: str
    hash: bytes
    scopes: list[str]
    rate_per_second: int
    burst: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """granted: how many of those wanted. retry_after_seconds: when none, how long until there is one."""

    granted: int
    retry_after_seconds: float


async def find(conn: Connection, digest: bytes) -> ApiKey | None:
    async with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        await cursor.execute(FIND, {"digest": digest})
        return await cursor.fetchone()


async def insert(
    conn: Connection,
    *,
    tenant_id: int,
    name: str,
    prefix: str,
    digest: bytes,
    scopes: Collection[str],
    rate_per_second: int = 1000,
    burst: int = 2000,
) -> int:
    """Stores a minted key and answers its id."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            INSERT,
            {
                "tenant_id": tenant_id,
                "name": name,
                "prefix": prefix,
                "digest": digest,
                "scopes": list(scopes),
                "rate_per_second": rate_per_second,
                "burst": burst,
            },
        )
        key_id = await cursor.fetchone()
        assert isinstance(key_id, int)
        return key_id


async def revoke(conn: Connection, *, tenant_id: int, key_id: int) -> bool:
    """Whether the key was in force until now."""
    cursor = await conn.execute(REVOKE, {"tenant_id": tenant_id, "key_id": key_id})
    return cursor.rowcount == 1


async def note_refused(conn: Connection, *, key_id: int, hits: int) -> None:
    """How many requests of a key were refused for its rate (R-183)."""
    await conn.execute(NOTE_REFUSED, {"key_id": key_id, "hits": hits})


async def take_tokens(conn: Connection, bucket: str, *, wanted: int, rate: float, burst: float) -> Tokens:
    async with conn.cursor(row_factory=class_row(Tokens)) as cursor:
        await cursor.execute(TAKE_TOKENS, {"bucket": bucket, "wanted": wanted, "rate": rate, "burst": burst})
        tokens = await cursor.fetchone()
        assert tokens is not None
        return tokens
