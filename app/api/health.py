"""Whether this process lives, and whether it should be given requests."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from litestar import Response, get

from app.api.state import Api
from app.errors import Unavailable

READY_SECONDS_MAX = 2.0  # a probe that waits longer has its answer


@get("/health/live", tags=["health"], security=[{}], sync_to_thread=False)
def live() -> dict[str, str]:
    """This process answers; says nothing of what it depends on."""
    return {"status": "ok"}


@get("/health/ready", tags=["health"], security=[{}])
async def ready(api: Api) -> Response[dict[str, Any]]:
    """200 when requests can be accepted; 503 with each check that fails."""
    checks = {
        "database": await _database(api),
        "migrations": await _migrations(api),
        "accept_queue": "full" if api.desk.acceptor.full else "ok",
    }
    fit = all(result == "ok" for result in checks.values())
    return Response({"status": "ok" if fit else "unavailable", "checks": checks}, status_code=200 if fit else 503)


async def _database(api: Api) -> str:
    try:
        async with asyncio.timeout(READY_SECONDS_MAX), api.db.transaction() as conn:
            await conn.execute("SELECT 1")
    except (TimeoutError, Unavailable, psycopg.Error):
        return "unreachable"
    return "ok"


async def _migrations(api: Api) -> str:
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            waiting = await api.pending_migrations.get(api.db.dsn)
    except (TimeoutError, psycopg.Error):
        return "unknown"
    return f"pending: {', '.join(waiting)}" if waiting else "ok"


routes = [live, ready]
