"""Statements of jobs.upkeep and of the workers' liveness."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from psycopg.rows import args_row
from psycopg.sql import SQL, Identifier

from app.db import Connection
from app.store._queries import load

_q = load("upkeep")
ENSURE_PARTITIONS = _q["ensure_partitions"]
PAST_PARTITIONS = _q["past_partitions"]
ONE_AT_A_TIME, NEXT_ONE = _q["one_at_a_time"], _q["next_one"]
PURGE_KEYS = _q["purge_keys"]
PURGE_TOKENS = _q["purge_tokens"]
PURGE_WORKERS = _q["purge_workers"]
PURGE_BUCKETS = _q["purge_buckets"]
PURGE_INBOX = _q["purge_inbox"]
PURGE_DEVICES = _q["purge_devices"]
BEAT = _q["beat"]


@dataclass(frozen=True, slots=True)
class Partition:
    """One day of one table. Fields in the order of the statement's columns.

    needed: something in its day is not over. attached: still part of its table. pending: its detach was interrupted.
    """

    day: date
    parent: str
    part: str
    needed: bool
    attached: bool
    pending: bool


async def ensure_partitions(conn: Connection, *, days_back: int, days_ahead: int) -> int:
    """Makes the partitions of these days around today (UTC) that are not there yet. Answers how many."""
    cursor = await conn.execute(ENSURE_PARTITIONS, {"days_back": days_back, "days_ahead": days_ahead})
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def past_partitions(
    conn: Connection, *, retention_days: int, dead_letter_retention_seconds: float
) -> list[Partition]:
    """What is past retention, oldest first, and whether something in its day still needs something."""
    async with conn.cursor(row_factory=args_row(Partition)) as cursor:
        await cursor.execute(
            PAST_PARTITIONS,
            {
                "retention_days": retention_days,
                "dead_letter_retention_seconds": dead_letter_retention_seconds,
            },
        )
        return await cursor.fetchall()


async def drop_partition(conn: Connection, partition: Partition) -> None:
    """Takes it out of its table, waiting for whoever reads it and stopping nobody, and drops it.

    The connection is in autocommit: between the two steps of a concurrent detach lies a commit. A detach that was
    interrupted is finished.
    """
    table, part = Identifier("store", partition.parent), Identifier("store", partition.part)
    if partition.attached:
        how = SQL("FINALIZE" if partition.pending else "CONCURRENTLY")
        await conn.execute(SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(table, part, how))
    await conn.execute(SQL("DROP TABLE {}").format(part))


@contextlib.asynccontextmanager
async def one_at_a_time(conn: Connection) -> AsyncIterator[bool]:
    """Whether this session is the one that drops partitions now."""
    cursor = await conn.execute(ONE_AT_A_TIME)
    row = await cursor.fetchone()
    mine = bool(row and row[0])
    try:
        yield mine
    finally:
        if mine:
            await conn.execute(NEXT_ONE)


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
