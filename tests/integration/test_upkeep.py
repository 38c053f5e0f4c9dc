"""upkeep: days come and go, and nobody who works is stopped for it (I9, I12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app.db import Database
from app.errors import Unavailable
from app.flows.upkeep import drop_partitions, ensure_partitions, upkeep
from app.settings import Settings
from app.store import upkeep as store
from tests.factories import make_delivery, make_lane, make_worker

SETTINGS = Settings()
OLD = datetime.now(UTC) - timedelta(days=40)
PARENTS = ("notifications", "deliveries", "attempts", "events", "inbound_events")
PATIENCE_SECONDS = 30


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session whose every statement commits, on a database that has a day past retention."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await make_day(connection, OLD)
        yield connection


async def make_day(conn: psycopg.AsyncConnection, day: datetime) -> None:
    """The partitions of a day long gone, as upkeep made them when it was ahead."""
    for parent in PARENTS:
        low, high = (f"{day + timedelta(days=n):%Y-%m-%d} 00:00+00" for n in (0, 1))
        if parent != "inbound_events":
            cursor = await conn.execute("SELECT store.id_floor(%s), store.id_floor(%s)", (low, high))
            low, high = (str(bound) for bound in await cursor.fetchone() or ())
        await conn.execute(
            f"CREATE TABLE store.{parent}_p{day:%Y%m%d} PARTITION OF store.{parent} "
            f"FOR VALUES FROM ('{low}') TO ('{high}')"
        )


async def tables(conn: psycopg.AsyncConnection, day: datetime = OLD) -> list[str]:
    cursor = await conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'store'::regnamespace AND relkind = 'r' AND relname LIKE %s",
        (f"%_p{day:%Y%m%d}",),
    )
    return sorted(row[0] for row in await cursor.fetchall())


async def old_delivery(conn: psycopg.AsyncConnection, **columns: Any) -> Any:
    """A delivery of that day: everything about it lies in its partitions."""
    made = await make_delivery(conn, **columns)
    for table, key in (("notifications", "id"), ("deliveries", "id")):
        own = made.notification_id if table == "notifications" else made.id
        await conn.execute(
            f"UPDATE store.{table} SET id = overlay(id::text PLACING left(store.id_floor(%s)::text, 13) FROM 1)::uuid "  # noqa: S608
            f"WHERE {key} = %s",
            (OLD, own),
        )
    return made


async def blocked(conn: psycopg.AsyncConnection, what: str) -> None:
    """Waits until a session that runs such a statement waits for somebody."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            cursor = await conn.execute(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE %s AND pid <> pg_backend_pid() "
                "AND wait_event_type = 'Lock'",
                (f"%{what}%",),
            )
            if await cursor.fetchone():
                return
            await asyncio.sleep(0.01)


async def test_a_day_that_nobody_needs_goes_from_every_table(conn, db):
    assert await drop_partitions(db, SETTINGS) == (5, [])
    assert await tables(conn) == []
    assert len(await tables(conn, datetime.now(UTC))) == 5
    assert await drop_partitions(db, SETTINGS) == (0, [])


@pytest.mark.parametrize(
    "columns", [{}, {"state": "sent"}, {"state": "dead", "reason": "rejected", "ended_at": datetime.now(UTC)}]
)
async def test_what_is_not_over_keeps_its_whole_day(conn, db, columns):
    await old_delivery(conn, **columns)
    assert await drop_partitions(db, SETTINGS) == (1, [OLD.date()]), "of inbound events nobody needs that day"
    assert len(await tables(conn)) == 4


async def test_a_dead_letter_that_is_old_enough_keeps_nothing(conn, db):
    await old_delivery(conn, state="dead", reason="rejected", ended_at=datetime.now(UTC) - timedelta(days=6))
    await conn.execute("UPDATE store.notifications SET state = 'planned', due_at = NULL, planned_at = now()")
    assert await drop_partitions(db, SETTINGS) == (5, [])


async def test_dropping_a_day_and_claiming_do_not_stop_each_other(conn, db, dsn):
    await make_delivery(conn)
    async with await psycopg.AsyncConnection.connect(dsn) as claim:
        await claim.execute("SELECT FROM store.deliveries WHERE state = 'queued' FOR UPDATE SKIP LOCKED")
        dropping = asyncio.create_task(drop_partitions(db, SETTINGS))
        await blocked(conn, "DETACH PARTITION")
        # What a claim does next, in tables that the drop has not come to, or has been at.
        await claim.execute("SET LOCAL lock_timeout = '5s'")
        for table in ("attempts", "notifications", "events", "inbound_events"):
            await claim.execute(f"SELECT count(*) FROM store.{table}")  # type: ignore[arg-type]  # noqa: S608
        await claim.execute("UPDATE store.deliveries SET updated_at = now()")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
            await other.execute("SET lock_timeout = '5s'")
            await make_delivery(other)
        await claim.commit()
    assert await dropping == (5, [])


async def test_a_drop_that_was_interrupted_is_taken_up_again(conn, db, dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as reader:
        await reader.execute("SELECT count(*) FROM store.attempts")
        dropping = asyncio.create_task(drop_partitions(db, SETTINGS))
        await blocked(conn, "DETACH PARTITION")
        await conn.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%DETACH PARTITION%' AND pid <> pg_backend_pid()"
        )
        with pytest.raises(Unavailable):
            await dropping
    past = await _past(db)
    assert [partition.parent for partition in past if partition.pending] == ["attempts"]
    await drop_partitions(db, SETTINGS)
    assert await tables(conn) == []


async def _past(db: Database) -> list[store.Partition]:
    async with db.transaction() as own:
        return await store.past_partitions(own, retention_days=35, dead_letter_retention_seconds=86400)


async def test_one_session_drops_at_a_time(conn, db):
    async with db.autocommit() as first, store.one_at_a_time(first) as mine:
        assert mine
        assert await drop_partitions(db, SETTINGS) == (0, [])
    assert await drop_partitions(db, SETTINGS) == (5, [])


async def test_making_a_day_stops_nobody_who_works(conn, db, dsn):
    await ensure_partitions(db, SETTINGS)  # up to the last day as of now: the migrations may have run before midnight
    tomorrow = datetime.now(UTC) + timedelta(days=3)
    for parent in PARENTS:
        await conn.execute(f"DROP TABLE store.{parent}_p{tomorrow:%Y%m%d}")  # type: ignore[arg-type]
    async with await psycopg.AsyncConnection.connect(dsn) as claim:
        for parent in PARENTS:
            await claim.execute(f"LOCK TABLE store.{parent} IN ROW EXCLUSIVE MODE")  # type: ignore[arg-type]
        assert await ensure_partitions(db, SETTINGS) == 5
        await claim.commit()
    assert len(await tables(conn, tomorrow)) == 5


async def test_a_day_that_was_made_ahead_is_as_strict_as_its_table(conn, db):
    parts = await conn.execute(
        """
        SELECT p.relname, (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'),
               (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = p.oid AND k.contype = 'c'),
               (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid),
               (SELECT count(*) FROM pg_index x WHERE x.indrelid = p.oid),
               (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 1 = 1),
               (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = p.oid AND t.tgtype & 1 = 1)
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE c.relname LIKE %s
        """,
        (f"%_p{datetime.now(UTC):%Y%m%d}",),
    )
    found = await parts.fetchall()
    assert len(found) == 5
    for table, own_checks, checks, own_indexes, indexes, own_triggers, triggers in found:
        assert (own_checks, own_indexes, own_triggers) == (checks, indexes, triggers), table


async def test_a_lane_that_no_living_worker_has_published_is_forgotten(conn, db):
    ago = {hours: datetime.now(UTC) - timedelta(hours=hours) for hours in (1, 3, 9)}
    for name, hours in (("email.alert.default", 1), ("email.alert.quiet", 3), ("email.alert.removed", 9)):
        await make_lane(conn, name, "mailgun")
        await conn.execute("UPDATE store.lanes SET published_at = %s WHERE name = %s", (ago[hours], name))
    await make_worker(conn, started_at=ago[9], last_seen_at=ago[9])  # has died
    await upkeep(db, SETTINGS)
    assert len(await lanes(conn)) == 3, "nobody lives who would know"
    await make_worker(conn, "email.alert.default", started_at=ago[3])
    await upkeep(db, SETTINGS)
    assert await lanes(conn) == ["email.alert.default", "email.alert.quiet"]


async def lanes(conn: psycopg.AsyncConnection) -> list[str]:
    cursor = await conn.execute("SELECT name FROM store.lanes ORDER BY name")
    return [row[0] for row in await cursor.fetchall()]
