"""Dead letters: deliveries whose retry budget is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("dead_letters")
LIST_NEWEST = _q["list_newest"]
ACT_FOR = _q["act_for"]
REPLAY = _q["replay"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead delivery and how its last attempt went."""

    delivery_id: UUID
    notification_id: UUID
    recipient_id: str
    category: str
    channel: str
    address: str
    template_id: str
    template_version: int
    reason: str
    provider: str | None
    attempts: int
    last_outcome: str | None
    last_status_code: int | None
    last_detail: str | None
    created_at: datetime
    expires_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None lets all pass. ``since`` and ``until`` bound ``ended_at``."""

    category: str | None = None
    channel: str | None = None
    provider: str | None = None
    reason: str | None = None
    template_id: str | None = None
    recipient_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_newest(
    conn: Connection,
    tenant_id: int,
    wanted: Filter,
    *,
    after: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[DeadLetter]:
    """Those that died last come first, those behind ``after`` (when one ended, and its id)."""
    after_time, after_id = after or (None, None)
    parameters = {
        "tenant_id": tenant_id,
        "after_time": after_time,
        "after_id": after_id,
        "limit": limit,
        **asdict(wanted),
    }
    async with conn.cursor(row_factory=class_row(DeadLetter)) as cursor:
        await cursor.execute(LIST_NEWEST, parameters)
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Replay:
    """What to replay: one delivery, or the dead letters of the tenant that match; and what for.

    commit: False only says what would be done. force: also what may have arrived, as a second message.
    """

    delivery_id: UUID | None = None
    template_id: str | None = None
    category: str | None = None
    provider: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    max_rows: int = 1000
    commit: bool = False
    force: bool = False
    reason: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """What was, or would be, done about one delivery; ``sql/functions/replay.sql`` lists the verdicts.

    template: ``<template_id>@<version>``. standing: the delivery's state and reason before.
    """

    delivery_id: UUID
    notification_id: UUID | None
    recipient_id: str | None
    template: str | None
    standing: str | None
    verdict: str
    explanation: str
    replayed_as: UUID | None


async def replay(conn: Connection, tenant: str, wanted: Replay, *, actor: str) -> list[ReplayVerdict]:
    """One verdict per delivery. Raises psycopg.errors.InvalidParameterValue, whose column is the field."""
    await conn.execute(ACT_FOR, {"actor": actor})
    async with conn.cursor(row_factory=class_row(ReplayVerdict)) as cursor:
        await cursor.execute(REPLAY, {"tenant": tenant, **asdict(wanted)})
        return await cursor.fetchall()
