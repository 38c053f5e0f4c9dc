"""Statements of flows.intake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import args_row

from app.db import Connection
from app.domain.plan import Planned
from app.store._queries import load

_q = load("intake")
CLAIM_ACCEPTED = _q["claim_accepted"]
WRITE_PLANS = _q["write_plans"]

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted notification and everything the rules look at. Fields in the order of the statement's columns.

    claimed_at: the database's time, by which it is due and expires.
    """

    shard: int
    id: UUID
    recipient_id: str
    category: str
    klass: str
    channels: list[str]
    expires_at: datetime
    channels_named: bool
    recipient_active: bool | None
    email: str | None
    phone: str | None
    addresses: dict[str, str] | None
    preferred: list[str] | None
    suppressed: dict[str, str] | None
    devices: dict[str, list[str]] | None
    tenant: str
    tenant_id: int
    template_id: str
    recipient_per_hour: int | None
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class PlannedNotification:
    """What became of one: the document ``write_plans`` reads."""

    shard: int
    id: UUID
    trace: Sequence[Mapping[str, Any]]
    deliveries: Sequence[Planned]


async def claim_accepted(conn: Connection, *, klass: str, limit: int) -> list[Accepted]:
    """Locks up to ``limit`` due notifications of one class; they stay locked until the transaction ends."""
    async with conn.cursor(row_factory=args_row(Accepted)) as cursor:
        await cursor.execute(CLAIM_ACCEPTED, {"class": klass, "limit": limit})
        return await cursor.fetchall()


async def write_plans(conn: Connection, plans: Sequence[PlannedNotification], *, endpoint_seconds: float) -> None:
    """endpoint_seconds: how long a delivery to an endpoint is worth trying."""
    await conn.execute(
        WRITE_PLANS,
        {
            "plans": _json.encode(plans).decode(),
            "first": min(p.id for p in plans),
            "last": max(p.id for p in plans),
            "endpoint_seconds": endpoint_seconds,
        },
    )
