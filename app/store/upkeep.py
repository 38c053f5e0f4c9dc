"""Statements of jobs.upkeep and of the workers' liveness."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from app.db import Connection
from app.store._queries import load

_q = load("upkeep")
ENSURE_PARTITIONS = _q["ensure_partitions"]
DROP_PARTITIONS = _q["drop_partitions"]
PURGE_KEYS = _q["purge_keys"]
PURGE_TOKENS = _q["purge_tokens"]
PURGE_WORKERS = _q["purge_workers"]
PURGE_BUCKETS = _q["purge_buckets"]
PURGE_INBOX = _q["purge_inbox"]
PURGE_DEVICES = _q["purge_devices"]
BEAT = _q["beat"]


async def ensure_partitions(conn: Connection, *, days_back: int, days_ahead: int) -> int:
    """Makes the partitions of these days around today (UTC) that are not there yet. Answers how many."""
    cursor = await conn.execute(ENSURE_PARTITIONS, {"days_back": days_back, "days_ahead": days_ahead})
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def drop_partitions(
    conn: Connection, *, retention_days: int, dead_letter_retention_seconds: float
) -> list[tuple[date, bool]]:
    """Drops days past retention that nothing needs any more. Answers each day looked at and whether it went."""
    cursor = await conn.execute(
        DROP_PARTITIONS,
        {
            "retention_days": retention_days,
            "dead_letter_retention_seconds": dead_letter_retention_seconds,
        },
    )
    return [(day, dropped) for day, dropped in await cursor.fetchall()]


async def purge_keys(conn: Connection, *, limit: int, dead_letter_retention_seconds: float) -> int:
    cursor = await conn.execute(
        PURGE_KEYS, {"limit": limit, "dead_letter_retention_seconds": dead_letter_retention_seconds}
    )
    return cursor.rowcount


async def purge_small(conn: Connection, *, token_keep_seconds: float) -> None:
    """What is kept only for a while: signatures seen, workers long gone, buckets long full."""
    await conn.execute(PURGE_TOKENS, {"keep_seconds": token_keep_seconds})
    await conn.execute(PURGE_WORKERS)
    await conn.execute(PURGE_BUCKETS)


async def purge_inbox(conn: Connection, *, limit: int, keep_seconds: float) -> int:
    """Deletes what was archived so long ago. Answers how much."""
    return (await conn.execute(PURGE_INBOX, {"limit": limit, "keep_seconds": keep_seconds})).rowcount


async def purge_devices(conn: Connection, *, limit: int, keep_seconds: float) -> int:
    """Deletes what was retired so long ago. Answers how much."""
    return (await conn.execute(PURGE_DEVICES, {"limit": limit, "keep_seconds": keep_seconds})).rowcount


async def beat(
    conn: Connection,
    *,
    worker_id: UUID,
    region: str,
    host: str,
    pid: int,
    lanes: Sequence[str],
    stopping: bool = False,
) -> None:
    await conn.execute(
        BEAT,
        {
            "id": worker_id,
            "region": region,
            "host": host,
            "pid": pid,
            "lanes": list(lanes),
            "stopping": stopping,
        },
    )
