"""A durable commit says that it succeeded only when it did, wherever it must have (I1, I13)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from app.db import Database, durable_commit
from app.embedded import EmbeddedPostgres, scratch_postgres
from app.errors import NotDurable, Unavailable
from tests.standby import set_standby

PATIENCE_SECONDS = 30
HELD = 4711

# Deferred, so that what it does is done by COMMIT: waits for a lock that a test holds, or warns as a cancelled wait for
# a standby does.
AT_COMMIT = f"""
CREATE TABLE notes (note text);
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.note
        WHEN 'slow' THEN PERFORM pg_advisory_xact_lock({HELD});
        WHEN 'warned' THEN RAISE WARNING 'canceling wait' USING ERRCODE = '01000';
        WHEN 'noticed' THEN RAISE NOTICE 'nothing to worry about';
        WHEN 'refused' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';
        ELSE NULL;
    END CASE;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
"""


@pytest.fixture
async def other(empty_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Another session, whose every statement commits."""
    async with await psycopg.AsyncConnection.connect(empty_dsn, autocommit=True) as connection:
        await connection.execute(AT_COMMIT)
        yield connection


@pytest.fixture
async def db(empty_dsn: str, other: psycopg.AsyncConnection) -> AsyncIterator[Database]:
    async with Database(empty_dsn, name="landed tests", size_max=2) as database:
        yield database


async def in_a_transaction(db: Database, note: str) -> None:
    async with db.transaction(durable=True) as conn:
        await conn.execute("INSERT INTO notes VALUES (%s)", (note,))


async def in_one_statement(db: Database, note: str) -> None:
    rows = await db.durable_rows(SQL("INSERT INTO notes VALUES (%(note)s) RETURNING note"), {"note": note})
    assert rows == [(note,)]


Write = Callable[[Database, str], Awaitable[None]]


@pytest.fixture(params=[in_a_transaction, in_one_statement])
def write(request: pytest.FixtureRequest) -> Write:
    """Both ways to commit durably."""
    return request.param


async def notes(conn: psycopg.AsyncConnection) -> list[str]:
    cursor = await conn.execute("SELECT note FROM notes")
    return [note for (note,) in await cursor.fetchall()]


# A session of this database that waits for a lock; others on the server wait for locks of their own.
LOCKED_OUT = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def until(conn: psycopg.AsyncConnection, statement: str) -> Any:
    """The first row the statement finds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (row := await (await conn.execute(statement)).fetchone()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # what it waits for lies in the database
    return row


async def test_what_was_committed_is_there(db, other, write):
    await write(db, "noticed")
    assert await notes(other) == ["noticed"]


async def test_a_warning_during_the_commit_means_not_durable(db, other, write):
    with pytest.raises(NotDurable, match="canceling wait"):
        await write(db, "warned")
    await write(db, "the connection is still of use")


async def test_a_commit_that_the_database_refuses_is_no_success(db, other, write):
    with pytest.raises(psycopg.errors.CheckViolation):
        await write(db, "refused")
    assert await notes(other) == []


async def test_an_error_that_was_swallowed_is_no_success(db, other):
    async def careless() -> None:
        async with db.transaction(durable=True) as conn:
            await conn.execute("INSERT INTO notes VALUES ('lost')")
            with contextlib.suppress(psycopg.DataError):
                await conn.execute("SELECT 1 / 0")

    with pytest.raises(NotDurable, match="rolled back"):
        await careless()
    assert await notes(other) == []


async def test_cancelling_the_caller_does_not_cancel_the_commit(db, other, write):
    await other.execute("SELECT pg_advisory_lock(%s)", (HELD,))
    writing = asyncio.create_task(write(db, "slow"))
    await until(other, LOCKED_OUT)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await notes(other) == []
    await other.execute("SELECT pg_advisory_unlock(%s)", (HELD,))
    await until(other, "SELECT 1 FROM notes WHERE note = 'slow'")
    await write(db, "the pool is still of use")


async def test_a_commit_that_takes_too_long_is_not_called_a_success_and_may_yet_be_one(empty_dsn, other):
    async with await psycopg.AsyncConnection.connect(empty_dsn) as conn:
        await conn.execute("INSERT INTO notes VALUES ('slow')")
        await other.execute("SELECT pg_advisory_lock(%s)", (HELD,))
        with pytest.raises(NotDurable, match="in time"):
            await durable_commit(conn, budget_seconds=0.1)
        await other.execute("SELECT pg_advisory_unlock(%s)", (HELD,))
        await until(other, "SELECT 1 FROM notes WHERE note = 'slow'")


async def test_a_server_that_dies_during_the_commit_leaves_no_success(db, other, write):
    await other.execute("SELECT pg_advisory_lock(%s)", (HELD,))
    writing = asyncio.create_task(write(db, "slow"))
    [pid] = await until(other, LOCKED_OUT)
    await other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    with pytest.raises(Unavailable):
        await writing
    await other.execute("SELECT pg_advisory_unlock(%s)", (HELD,))
    assert await notes(other) == []


# -- against a server that waits for a standby which never answers ------------------------------------------


@pytest.fixture(scope="module")
def lonely() -> Iterator[EmbeddedPostgres]:
    with scratch_postgres({"shared_buffers": "16MB", "max_connections": "20"}) as server:
        yield server


@pytest.fixture
async def admin(lonely: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session that does not wait; the others wait for a standby named nobody."""
    async with await psycopg.AsyncConnection.connect(lonely.dsn(), autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = local")
        await connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        await set_standby(lonely.dsn(), "nobody")
        yield connection
        await set_standby(lonely.dsn(), "")
        await connection.execute("DROP TABLE notes")


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def test_a_wait_for_the_standby_that_an_operator_cancels_is_not_durable(lonely, admin, write):
    async with Database(lonely.dsn(), name="landed tests") as db:
        writing = asyncio.create_task(write(db, "cancelled"))
        [pid] = await until(admin, WAITING)
        await admin.execute("SELECT pg_cancel_backend(%s)", (pid,))
        with pytest.raises(NotDurable, match="synchronous replication"):
            await writing
        assert await notes(admin) == ["cancelled"], "the server calls this a success: that is the trap"


async def test_a_wait_for_the_standby_goes_on_when_its_caller_is_cancelled(lonely, admin, write):
    async with Database(lonely.dsn(), name="landed tests") as db:
        writing = asyncio.create_task(write(db, "abandoned"))
        await until(admin, WAITING)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await until(admin, WAITING), "the wait was not cancelled with its caller"
        assert await notes(admin) == []
        await set_standby(lonely.dsn(), "")
        await until(admin, "SELECT 1 FROM notes WHERE note = 'abandoned'")
