"""Recipients: whom a tenant notifies, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from app.db import Connection
from app.store._queries import load
from app.store.suppressions import Suppression

_q = load("recipients")
UPSERT = _q["upsert"]
GET = _q["get"]
SOFT_BOUNCES = _q["soft_bounces"]
SUPPRESSIONS = _q["suppressions"]


@dataclass(frozen=True, slots=True)
class RecipientProfile:
    """All that a tenant says about a recipient. Field names are the columns'.

    addresses: where else it is reached: the ids of its endpoints for webhook and chat. channels: those it prefers.
    """

    id: str
    email: str | None
    phone: str | None
    locale: str | None
    time_zone: str | None
    active: bool
    attributes: dict[str, Any]
    addresses: dict[str, str]
    channels: list[str] | None


@dataclass(frozen=True, slots=True)
class Recipient(RecipientProfile):
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SoftBounces:
    """Consecutive soft bounces of one address (R-113, R-114)."""

    channel: str
    address: str
    bounces: int
    first_at: datetime
    last_at: datetime


async def upsert(conn: Connection, tenant_id: int, profiles: Sequence[RecipientProfile]) -> dict[str, bool]:
    """Creates or replaces each; id -> whether it was created. No id may be there twice."""
    items = Jsonb([asdict(profile) for profile in profiles])
    cursor = await conn.execute(UPSERT, {"tenant_id": tenant_id, "items": items})
    return dict(await cursor.fetchall())


async def get(conn: Connection, tenant_id: int, recipient_id: str) -> Recipient | None:
    async with conn.cursor(row_factory=class_row(Recipient)) as cursor:
        await cursor.execute(GET, {"tenant_id": tenant_id, "id": recipient_id})
        return await cursor.fetchone()


async def suppressions(conn: Connection, tenant_id: int, recipient_id: str) -> list[Suppression]:
    """The active ones of the recipient's present addresses."""
    async with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        await cursor.execute(SUPPRESSIONS, {"tenant_id": tenant_id, "id": recipient_id})
        return await cursor.fetchall()


async def soft_bounces(conn: Connection, tenant_id: int, recipient_id: str) -> list[SoftBounces]:
    """Of the recipient's present addresses."""
    async with conn.cursor(row_factory=class_row(SoftBounces)) as cursor:
        await cursor.execute(SOFT_BOUNCES, {"tenant_id": tenant_id, "id": recipient_id})
        return await cursor.fetchall()
