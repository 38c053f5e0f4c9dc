"""Schema landed as people and producers meet it: called by name, through their roles, two at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from tests.looking import row, rows


async def call(conn: AsyncConnection, function: str, **arguments: Any) -> list[dict[str, Any]]:
    """``SELECT * FROM landed.<function>(name => value, ...)``."""
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )
    statement = sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("landed", function), named)
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, arguments)
        return await cursor.fetchall()


async def audited(conn: AsyncConnection, action: str) -> list[dict[str, Any]]:
    return await rows(conn, "SELECT * FROM store.audit_log WHERE action = %s ORDER BY id", action)


@asynccontextmanager
async def acting_as(conn: AsyncConnection, *groups: str) -> AsyncIterator[str]:
    """The connection as a new login role that is a member of these groups, as a person or producer has it."""
    role = f"person_{uuid4().hex[:12]}"
    await conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    for group in groups:
        await conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)))
    await conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
    try:
        yield role
    finally:
        if conn.info.transaction_status is not psycopg.pq.TransactionStatus.INERROR:
            await conn.execute("RESET SESSION AUTHORIZATION")


@asynccontextmanager
async def refused(conn: AsyncConnection, error: type[psycopg.Error]) -> AsyncIterator[SimpleNamespace]:
    """The block must fail with this error, which is handed out; the transaction goes on."""
    caught = SimpleNamespace()
    with pytest.raises(error) as raised:
        async with conn.transaction():
            yield caught
    diag = raised.value.diag
    caught.field, caught.message = diag.column_name, diag.message_primary or ""
    caught.detail, caught.hint = diag.message_detail or "", diag.message_hint or ""


async def waits_for_lock(dsn: str, waiter: AsyncConnection) -> None:
    """Returns once the other connection's statement waits for a lock."""
    async with await AsyncConnection.connect(dsn, autocommit=True) as observer:
        while True:
            blocked = await row(
                observer,
                "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s",
                waiter.info.backend_pid,
            )
            if blocked["wait_event_type"] == "Lock":
                return
            await asyncio.sleep(0.01)


async def second_of_two(dsn: str, first: AsyncConnection, second: AsyncConnection, work: Awaitable[Any]) -> Any:
    """Lets ``work`` on the second connection run into what the first one holds, then commits the first."""
    task = asyncio.ensure_future(work)
    await waits_for_lock(dsn, second)
    await first.commit()
    return await task
