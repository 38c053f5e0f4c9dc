"""A server whose commits wait for a standby that never answers."""

from __future__ import annotations

import asyncio

import psycopg

PATIENCE_SECONDS = 60


async def set_standby(dsn: str, name: str) -> None:
    """Makes commits wait for a standby of this name, or for none when it is empty; returns when they do.

    A reload reaches each process in its own time, and it is the checkpointer's that makes commits wait: what any
    session shows says nothing of it.
    """
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        await admin.execute("SET synchronous_commit = local")
        await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")  # type: ignore[arg-type]
        await admin.execute("SELECT pg_reload_conf()")
        while await _waits(admin, dsn) != bool(name):  # noqa: ASYNC110 - the condition lies in the server
            await asyncio.sleep(0.01)


async def _waits(admin: psycopg.AsyncConnection, dsn: str) -> bool:
    """Whether a commit has to wait. The one that does is cancelled."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
        committing = asyncio.create_task(session.execute("SELECT pg_logical_emit_message(true, 'landed tests', '')"))
        waits = False
        while not committing.done():
            cursor = await admin.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
                (session.info.backend_pid,),
            )
            waits = waits or await cursor.fetchone() is not None
            await asyncio.sleep(0.01)
        await committing
        return waits
