"""Looking into the database: rows by name, views of schema reporting, and waiting until something is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row


async def rows(conn: AsyncConnection, statement: Any, *parameters: Any) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()


async def row(conn: AsyncConnection, statement: Any, *parameters: Any) -> dict[str, Any]:
    """The only one."""
    (only,) = await rows(conn, statement, *parameters)
    return only


async def view(conn: AsyncConnection, name: str, **where: Any) -> list[dict[str, Any]]:
    """The rows of a reporting view whose columns have these values."""
    conditions = [sql.SQL("{} = {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in where.items()]
    statement = sql.SQL("SELECT * FROM {} WHERE {}").format(
        sql.Identifier("reporting", name), sql.SQL(" AND ").join([sql.SQL("true"), *conditions])
    )
    return await rows(conn, statement)


async def until(condition: Callable[[], Awaitable[Any]], *, seconds: float = 60) -> Any:
    """What the condition answers, once that is something. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):  # noqa: ASYNC110 - the condition lies in the database
            await asyncio.sleep(0.01)
        return value


async def waiting_for_a_lock(conn: AsyncConnection) -> list[dict[str, Any]]:
    """The sessions of this database that do, as ``pid``. Others on the server wait for locks of their own."""
    return await rows(
        conn, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
