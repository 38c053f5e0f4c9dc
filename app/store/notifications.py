"""Notifications: accepting them, and reading back what became of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from app.db import Connection, Database
from app.store._queries import load

_q = load("notifications")
ACCEPT, STORED_ANSWER, BARRIER = _q["accept"], _q["stored_answer"], _q["barrier"]
ACT_AS, CANCEL = _q["act_as"], _q["cancel"]
FIND, DELIVERIES, ATTEMPTS, EVENTS = _q["find"], _q["deliveries"], _q["attempts"], _q["events"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one item of a group: see ``landed.accept``."""

    ordinal: int
    verdict: str
    notification_id: str | None
    response_status: int
    response: str | None
    original_request: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Notification:
    id: UUID
    recipient_id: str
    category: str
    class_: str
    channels: list[str]
    template_id: str
    template_version: int
    source: str
    idempotency_key: str | None
    state: str
    reason: str | None
    due_at: datetime | None
    expires_at: datetime
    accepted_at: datetime
    planned_at: datetime | None
    trace: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Delivery:
    id: UUID
    channel: str
    lane: str
    address: str
    state: str
    reason: str | None
    due_at: datetime | None
    failures: int
    provider: str | None
    provider_message_id: str | None
    replay_of: UUID | None
    expires_at: datetime
    created_at: datetime
    sent_at: datetime | None
    delivered_at: datetime | None
    bounced_at: datetime | None
    opened_at: datetime | None
    clicked_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    delivery_id: UUID
    no: int
    provider: str
    state: str
    outcome: str | None
    status_code: int | None
    detail: str | None
    provider_message_id: str | None
    region: str
    opened_at: datetime
    closed_at: datetime | None
    facts: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    delivery_id: UUID | None
    attempt_no: int | None
    kind: str
    source: str
    occurred_at: datetime
    recorded_at: datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Whether one delivery could be cancelled, and if not, why. No delivery: the notification was not
    yet planned.
    """

    delivery_id: UUID | None
    channel: str | None
    state: str
    cancelled: bool
    explanation: str


async def accept(db: Database, items: str, key_ttl: timedelta) -> list[Verdict]:
    """Accepts a JSON array of items, as ``landed.accept`` describes them; one verdict each, by ordinal.

    The one store function that commits: it is a transaction by itself, durable when it returns.
    """
    rows = await db.durable_rows(ACCEPT, {"items": items, "key_ttl": key_ttl})
    return sorted((Verdict(*row) for row in rows), key=lambda verdict: verdict.ordinal)


async def stored_answer(conn: Connection, *, tenant_id: int, key: str, request: dict[str, Any]) -> Verdict | None:
    """What this key answers to this request (``replayed`` or ``key_reused``); None when it is new."""
    async with conn.cursor(row_factory=class_row(Verdict)) as cursor:
        await cursor.execute(STORED_ANSWER, {"tenant_id": tenant_id, "key": key, "request": Jsonb(request)})
        return await cursor.fetchone()


async def barrier(conn: Connection) -> None:
    """Makes this transaction's durable commit vouch for all that was committed before it (I13)."""
    await conn.execute(BARRIER)


async def find(conn: Connection, *, tenant_id: int, notification_id: UUID) -> Notification | None:
    async with conn.cursor(row_factory=class_row(Notification)) as cursor:
        await cursor.execute(FIND, {"tenant_id": tenant_id, "id": notification_id})
        return await cursor.fetchone()


async def deliveries(conn: Connection, notification_id: UUID) -> list[Delivery]:
    async with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        await cursor.execute(DELIVERIES, {"id": notification_id})
        return await cursor.fetchall()


async def attempts(conn: Connection, notification_id: UUID, delivery_ids: Sequence[UUID]) -> list[Attempt]:
    async with conn.cursor(row_factory=class_row(Attempt)) as cursor:
        await cursor.execute(ATTEMPTS, {"id": notification_id, "delivery_ids": list(delivery_ids)})
        return await cursor.fetchall()


async def events(conn: Connection, notification_id: UUID) -> list[Event]:
    async with conn.cursor(row_factory=class_row(Event)) as cursor:
        await cursor.execute(EVENTS, {"id": notification_id})
        return await cursor.fetchall()


async def cancel(conn: Connection, *, tenant: str, notification_id: UUID, reason: str, actor: str) -> list[Stopped]:
    """Raises psycopg's NoDataFound when the tenant has no such notification."""
    await conn.execute(ACT_AS, {"actor": actor})
    async with conn.cursor(row_factory=class_row(Stopped)) as cursor:
        await cursor.execute(CANCEL, {"id": notification_id, "reason": reason, "tenant": tenant})
        return await cursor.fetchall()
