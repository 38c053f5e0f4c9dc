"""upkeep: partitions ahead of time, and nothing kept or dropped against the rules of retention (I12, I17)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import date

import structlog

from app.db import Connection, Database
from app.settings import DAY, Settings
from app.store import control, limits
from app.store import upkeep as store

log = structlog.get_logger()

DAYS_AHEAD = 3  # a long weekend without upkeep before anything stops; each day more is opened by every claim
PURGE_BATCH = 5000
PURGE_BATCHES_MAX = 200
SHARDS = 64  # store.shard_for


async def ensure_partitions(db: Database, settings: Settings) -> int:
    """Run at start-up and by the hour: the days ahead, and as far back as an event may still be told."""
    days_back = math.ceil(settings.times.evidence_window_seconds / DAY) + 1
    async with db.transaction() as conn:
        return await store.ensure_partitions(conn, days_back=days_back, days_ahead=DAYS_AHEAD)


async def drop_partitions(db: Database, settings: Settings) -> tuple[int, list[date]]:
    """Drops what is past retention and no longer needed. Answers how many partitions went, and which days stay."""
    async with db.autocommit() as conn, store.one_at_a_time(conn) as mine:
        if not mine:
            return 0, []
        past = await store.past_partitions(
            conn,
            retention_days=math.ceil(settings.times.retention_seconds / DAY),
            dead_letter_retention_seconds=settings.times.dead_letter_retention_seconds,
        )
        over = [partition for partition in past if not partition.needed]
        for partition in over:
            await store.drop_partition(conn, partition)
        return len(over), sorted({partition.day for partition in past if partition.needed})


async def upkeep(db: Database, settings: Settings) -> None:
    times = settings.times
    made = await ensure_partitions(db, settings)
    dropped, kept = await drop_partitions(db, settings)
    async with db.transaction() as conn:
        await store.purge_small(conn, token_keep_seconds=2 * times.webhook_window_seconds)
        await control.purge(conn, keep_seconds=times.retention_seconds)
        await limits.purge_small(conn, keep_seconds=times.retention_seconds)
    keys = await _until_none(
        db,
        lambda conn: store.purge_keys(
            conn, limit=PURGE_BATCH, dead_letter_retention_seconds=times.dead_letter_retention_seconds
        ),
    )
    items = await _until_none(
        db,
        lambda conn: store.purge_inbox(conn, limit=PURGE_BATCH, keep_seconds=settings.inbox.archived_retention_seconds),
    )
    devices = await _until_none(
        db, lambda conn: store.purge_devices(conn, limit=PURGE_BATCH, keep_seconds=times.retention_seconds)
    )
    windows = 0
    for shard in range(SHARDS):
        async with db.transaction() as conn:
            windows += await limits.purge_windows(conn, shard=shard)
    log.info(
        "upkeep",
        partitions_made=made,
        partitions_dropped=dropped,
        days_kept=[str(day) for day in kept],
        keys_purged=keys,
        inbox_items_purged=items,
        devices_purged=devices,
        windows_purged=windows,
    )


async def _until_none(db: Database, purge: Callable[[Connection], Awaitable[int]]) -> int:
    """A batch a transaction, so that nobody waits long for what is being deleted. Answers how much went."""
    purged = 0
    for _ in range(PURGE_BATCHES_MAX):
        async with db.transaction() as conn:
            gone = await purge(conn)
        purged += gone
        if gone == 0:
            break
    return purged
