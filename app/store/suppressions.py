"""Addresses that must not be sent to, and why (I11)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("suppressions")
LOCK_ADDRESS = _q["lock_address"]
ADD = _q["add"]
ACTIVE = _q["active"]
GET = _q["get"]
LIST_NEWEST = _q["list_newest"]
LIFT = _q["lift"]

Source = Literal["provider", "recipient", "operator", "api"]
SCOPE_ALL = "all"


@dataclass(frozen=True, slots=True)
class Suppression:
    """scope: ``all``, or the one category it covers. Active while ``lifted_at`` is None."""

    id: int
    channel: str
    address: str
    scope: str
    reason: str
    detail: str
    source: str
    delivery_id: UUID | None
    created_at: datetime
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


async def add(
    conn: Connection,
    tenant_id: int,
    *,
    channel: str,
    address: str,
    scope: str = SCOPE_ALL,
    reason: str,
    detail: str = "",
    source: Source,
    actor: str,
) -> tuple[Suppression, bool]:
    """The suppression, and whether it is new: an active one for the same address and scope stands as it is.

    Once the caller's transaction has committed, no new attempt goes to the address. Until then it holds the
    address, so the transaction should be short and must not wait for delivery rows.
    """
    parameters = {
        "tenant_id": tenant_id,
        "channel": channel,
        "address": address,
        "scope": scope,
        "reason": reason,
        "detail": detail,
        "source": source,
        "actor": actor,
    }
    await conn.execute(LOCK_ADDRESS, parameters)
    async with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        added = await (await cursor.execute(ADD, parameters)).fetchone()
        if added is not None:
            return added, True
        standing = await (await cursor.execute(ACTIVE, parameters)).fetchone()
    assert standing is not None
    return standing, False


async def get(conn: Connection, tenant_id: int, suppression_id: int) -> Suppression | None:
    async with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        await cursor.execute(GET, {"tenant_id": tenant_id, "id": suppression_id})
        return await cursor.fetchone()


async def list_newest(
    conn: Connection,
    tenant_id: int,
    *,
    channel: str | None = None,
    address: str | None = None,
    reason: str | None = None,
    active: bool | None = None,
    after: int | None = None,
    limit: int,
) -> list[Suppression]:
    """Newest first, those behind ``after`` (an id)."""
    parameters = {
        "tenant_id": tenant_id,
        "channel": channel,
        "address": address,
        "reason": reason,
        "active": active,
        "after": after,
        "limit": limit,
    }
    async with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        await cursor.execute(LIST_NEWEST, parameters)
        return await cursor.fetchall()


async def lift(
    conn: Connection, tenant_id: int, suppression: Suppression, *, reason: str, actor: str
) -> Suppression | None:
    """The lifted suppression, written to the audit log; None when it was lifted before."""
    parameters = {
        "tenant_id": tenant_id,
        "id": suppression.id,
        "channel": suppression.channel,
        "address": suppression.address,
        "lift_reason": reason,
        "actor": actor,
    }
    await conn.execute(LOCK_ADDRESS, parameters)
    async with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        await cursor.execute(LIFT, parameters)
        return await cursor.fetchone()
