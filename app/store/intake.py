"""Statements of flows.intake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import columns, load

_q = load("intake")
CLAIM_ACCEPTED = _q["claim_accepted"]
INSERT_DELIVERIES = _q["insert_deliveries"]
MARK_PLANNED = _q["mark_planned"]

@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted notification and everything the rules look at."""

    shard: int
    id: UUID
    tenant_id: int
    recipient_id: str
    category: str

    klass: str
    channels: list[str]
    template_id: str
    template_version: int
    expires_at: datetime
    recipient_active: bool | None
    email: str | None
    phone: str | None
    sender: str | None
    reply_to: str | None
    suppressed: dict[str, str] | None

@dataclass(frozen=True, slots=True)
class NewDelivery:
    notification: Accepted
    channel: str
    lane: str
    address: str
    state: str
    reason: str | None

async def claim_accepted(conn: Connection, *, klass: str, limit: int) -> list[Accepted]:
    """Locks up to ``limit`` due notifications of one class; they stay locked until the transaction ends."""
    async with conn.cursor(row_factory=class_row(Accepted)) as cursor:
        await cursor.execute(CLAIM_ACCEPTED, {"class": klass, "limit": limit})
        return await cursor.fetchall()

async def insert_deliveries(conn: Connection, deliveries: Sequence[NewDelivery]) -> None:
    of = [d.notification for d in deliveries]
    await conn.execute(
        INSERT_DELIVERIES,
        columns(
            of,
            shards="shard",
            notification_ids="id",
            tenant_ids="tenant_id",
            recipient_ids="recipient_id",
            categories="category",
            classes="klass",
            senders="sender",
            reply_tos="reply_to",
            template_ids="template_id",
            template_versions="template_version",
            expiries="expires_at",
        )
        | columns(
            deliveries, channels="channel", lanes="lane", addresses="address", states="state", reasons="reason"
        ),
    )

async def mark_planned(conn: Connection, planned: Sequence[Accepted], traces: Sequence[str]) -> None:
    """traces: one JSON document for each notification, in the same order."""
    await conn.execute(MARK_PLANNED, columns(planned, shards="shard", ids="id") | {"traces": list(traces)})
