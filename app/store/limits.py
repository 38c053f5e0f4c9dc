"""Statements of flows.limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg.rows import args_row
from psycopg.sql import SQL

from app.db import Connection
from app.store._queries import load

_q = load("limits")
TAKE_RECIPIENT_SLOTS = _q["take_recipient_slots"]
TAKE_TEMPLATE_SLOTS = _q["take_template_slots"]
COUNT_HITS = _q["count_hits"]
PURGE_WINDOWS = _q["purge_windows"]
PURGE_TEMPLATES = _q["purge_templates"]
PURGE_HITS = _q["purge_hits"]

_json = msgspec.json.Encoder()


class RecipientLimit(NamedTuple):
    """What one recipient gets in an hour. category: one that is counted by itself; empty for all others together."""

    shard: int
    tenant_id: int
    recipient_id: str
    channel: str
    category: str
    per_hour: int

    @property
    def level(self) -> str:
        return "recipient"

    @property
    def name(self) -> str:
        return self.channel

    @property
    def given(self) -> dict[str, int]:
        return {"per_hour": self.per_hour}


class TemplateLimit(NamedTuple):
    """What one template sends in a minute, apart for each class."""

    tenant_id: int
    template_id: str
    klass: str
    per_minute: int

    @property
    def level(self) -> str:
        return "template"

    @property
    def name(self) -> str:
        return self.template_id

    @property
    def given(self) -> dict[str, int]:
        return {"per_minute": self.per_minute}


class Slot(NamedTuple):
    """One that is still to come. k: which limit, i: which of its deliveries, both as they were given."""

    k: int
    i: int
    until: datetime


async def take_recipient_slots(
    conn: Connection, wanted: Sequence[tuple[RecipientLimit, Sequence[datetime | None]]]
) -> list[Slot]:
    """Takes slots of each limit, for each of its moments the first that is free from then on (None: from now on).

    The moments of a limit come in order. Answers the slots that make a delivery wait.
    """
    rows = [limit._asdict() | {"k": k, "not_before": moments} for k, (limit, moments) in enumerate(wanted)]
    return await _take(conn, TAKE_RECIPIENT_SLOTS, rows)


async def take_template_slots(conn: Connection, wanted: Sequence[tuple[TemplateLimit, int]]) -> list[Slot]:
    """Takes so many slots of each limit; answers those that make a delivery wait."""
    rows = [limit._asdict() | {"k": k, "n": n} for k, (limit, n) in enumerate(wanted)]
    return await _take(conn, TAKE_TEMPLATE_SLOTS, rows)


async def _take(conn: Connection, statement: SQL, rows: Sequence[Mapping[str, Any]]) -> list[Slot]:
    if not rows:
        return []
    async with conn.cursor(row_factory=args_row(Slot)) as cursor:
        await cursor.execute(statement, {"wanted": _json.encode(rows).decode()})
        return await cursor.fetchall()


async def count_hits(conn: Connection, hits: Mapping[tuple[int, str, str], int]) -> None:
    """How often each limit made something wait: (tenant id, level, name) -> times."""
    rows = [
        {"tenant_id": tenant_id, "level": level, "name": name, "hits": times}
        for (tenant_id, level, name), times in hits.items()
    ]
    await conn.execute(COUNT_HITS, {"hits": _json.encode(rows).decode()})


async def purge_windows(conn: Connection, *, shard: int) -> int:
    """Deletes the windows of one shard that no longer hold anybody back. Answers how many."""
    return (await conn.execute(PURGE_WINDOWS, {"shard": shard})).rowcount


async def purge_small(conn: Connection, *, keep_seconds: float) -> None:
    """Templates that may send at once, and what had to wait so long ago."""
    await conn.execute(PURGE_TEMPLATES)
    await conn.execute(PURGE_HITS, {"keep_seconds": keep_seconds})
