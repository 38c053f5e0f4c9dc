"""What operators look at and do from a shell. Rows as they come, for people: no code decides on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from app.db import Connection
from app.store._queries import load

_q = load("operate")
FIND_NOTIFICATION, TIMELINE, EXPLAIN, ATTEMPTS = (
    _q["find_notification"],
    _q["timeline"],
    _q["explain"],
    _q["attempts"],
)
RENDERED, REPLAY, SEND = _q["rendered"], _q["replay"], _q["send"]
SERVER, PARTITIONS_AHEAD = _q["server"], _q["partitions_ahead"]
WAITING, ENDED, WORKERS = _q["waiting"], _q["ended"], _q["workers"]
PROVIDERS, PROVIDER_STATUS, UNWELL_PROVIDERS = _q["providers"], _q["provider_status"], _q["unwell_providers"]
LANES, WAITING_LANES, LANES_WITHOUT_PROVIDER = _q["lanes"], _q["waiting_lanes"], _q["lanes_without_provider"]
DRAIN_PROVIDER, RESTORE_PROVIDER, LOAD_SHEDDING = _q["drain_provider"], _q["restore_provider"], _q["load_shedding"]
STUCK, UNCONFIRMED, DEAD_LETTERS, REFUSALS = (
    _q["stuck"],
    _q["unconfirmed"],
    _q["dead_letters"],
    _q["refusals"],
)

STUCK_SHOWN_MAX = 50  # one is already too many; a hundred tell no more

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a delivery's content was made from. content_hash: of what was sent; None when nothing ever was."""

    attempt_no: int | None
    attempt_state: str | None
    tenant: str
    template_id: str
    template_version: int
    channel: str
    address: str
    sender: str
    variables: dict[str, Any]
    content_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Server:
    """major: PostgreSQL's major version. now: its clock."""

    major: int
    now: datetime


async def find_notification(conn: Connection, id: UUID) -> UUID | None:
    """The notification that an id names, be it its own or that of one of its deliveries."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(FIND_NOTIFICATION, {"id": id})
        return await cursor.fetchone()


async def story(conn: Connection, notification_id: UUID) -> dict[str, list[Row]]:
    """Everything about one notification: ``explain``, ``attempts``, ``timeline``."""
    parameters = {"id": notification_id}
    return {
        "explain": await _rows(conn, EXPLAIN, parameters),
        "attempts": await _rows(conn, ATTEMPTS, parameters),
        "timeline": await _rows(conn, TIMELINE, parameters),
    }


async def rendered(conn: Connection, delivery_id: UUID) -> Rendered:
    """Raises psycopg's NoDataFound when there is no such delivery."""
    async with conn.cursor(row_factory=class_row(Rendered)) as cursor:
        await cursor.execute(RENDERED, {"delivery_id": delivery_id})
        found = await cursor.fetchone()
    assert found is not None
    return found


async def situation(conn: Connection, *, hours: int) -> dict[str, list[Row]]:
    """What is happening now, and what ended of all that was accepted in the last ``hours``."""
    return {
        "waiting": await _rows(conn, WAITING),
        "ended": await _rows(conn, ENDED, {"hours": hours}),
        "lanes": await _rows(conn, WAITING_LANES),
        "load_shedding": await _rows(conn, LOAD_SHEDDING),
        "workers": await _rows(conn, WORKERS),
        "providers": await _rows(conn, UNWELL_PROVIDERS),
        "dead_letters": await _rows(conn, DEAD_LETTERS),
        "unconfirmed": await _rows(conn, UNCONFIRMED),
        "webhook_refusals": await _rows(conn, REFUSALS),
        "stuck": await _rows(conn, STUCK, {"limit": STUCK_SHOWN_MAX}),
    }


async def providers(conn: Connection) -> dict[str, list[Row]]:
    """How every provider account fares, and the lanes in which everything waits."""
    return {"providers": await _rows(conn, PROVIDERS), "waiting": await _rows(conn, WAITING_LANES)}


async def lanes(conn: Connection) -> list[Row]:
    return await _rows(conn, LANES)


async def drain_provider(conn: Connection, provider: str, *, reason: str) -> bool:
    """False when it was drained before. Raises psycopg's NoDataFound when there is no such provider."""
    return await _scalar(conn, DRAIN_PROVIDER, {"provider": provider, "reason": reason}) is True


async def restore_provider(conn: Connection, provider: str, *, reason: str) -> bool:
    """False when it was neither drained nor open. Raises psycopg's NoDataFound when there is no such provider."""
    return await _scalar(conn, RESTORE_PROVIDER, {"provider": provider, "reason": reason}) is True


async def provider_status(conn: Connection, provider: str) -> Row:
    (row,) = await _rows(conn, PROVIDER_STATUS, {"provider": provider})
    return row


async def lanes_without_provider(conn: Connection, provider: str) -> list[Row]:
    """The lanes of this provider in which no other is ready either."""
    return await _rows(conn, LANES_WITHOUT_PROVIDER, {"provider": provider})


async def replay(conn: Connection, **wanted: Any) -> list[Row]:
    """One verdict per candidate; the arguments are those of ``landed.replay``."""
    return await _rows(conn, REPLAY, wanted)


async def send(conn: Connection, *, variables: dict[str, Any], **request: Any) -> UUID:
    """Accepted when the transaction commits; the arguments are those of ``landed.send``."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(SEND, {"variables": Jsonb(variables), **request})
        id = await cursor.fetchone()
    assert isinstance(id, UUID)
    return id


async def server(conn: Connection) -> Server:
    async with conn.cursor(row_factory=class_row(Server)) as cursor:
        await cursor.execute(SERVER)
        found = await cursor.fetchone()
    assert found is not None
    return found


async def partitions_ahead(conn: Connection) -> date | None:
    """The last day for which all of the partitioned tables have room."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(PARTITIONS_AHEAD)
        return await cursor.fetchone()


async def workers(conn: Connection) -> list[Row]:
    return await _rows(conn, WORKERS)


async def _scalar(conn: Connection, statement: SQL, parameters: Row) -> object:
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(statement, parameters)
        found: object = await cursor.fetchone()
        return found


async def _rows(conn: Connection, statement: SQL, parameters: Row | None = None) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()
