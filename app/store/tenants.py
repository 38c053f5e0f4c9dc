"""Tenants, and what keys each has: ``app.api.auth`` mints keys, ``store.api_keys`` keeps and revokes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("tenants")
CREATE_TENANT = _q["create_tenant"]
GET_TENANT = _q["get_tenant"]
LIST_TENANTS = _q["list_tenants"]
LIST_API_KEYS = _q["list_api_keys"]


@dataclass(frozen=True, slots=True)
class Tenant:
    id: int
    name: str
    sender: str
    reply_to: str | None
    promotional_sender: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be shown of a key: the key itself is known only to its holder."""

    id: int
    tenant_id: int
    name: str
    prefix: str
    scopes: list[str]
    rate_per_second: int
    burst: int
    created_at: datetime
    revoked_at: datetime | None


async def create_tenant(
    conn: Connection, name: str, sender: str, reply_to: str | None = None, promotional_sender: str | None = None
) -> Tenant:
    """``sender`` is the default From of its email, ``reply_to`` the default Reply-To, ``promotional_sender`` the From
    of promotional email, on a domain of its own (R-117).

    Raises psycopg.errors.UniqueViolation when the name is taken, CheckViolation when it is not one
    (``[a-z0-9][a-z0-9_-]*``, at most 63 characters) or a header would break.
    """
    async with conn.cursor(row_factory=class_row(Tenant)) as cursor:
        await cursor.execute(
            CREATE_TENANT,
            {"name": name, "sender": sender, "reply_to": reply_to, "promotional_sender": promotional_sender},
        )
        tenant = await cursor.fetchone()
    assert tenant is not None
    return tenant


async def get_tenant(conn: Connection, name: str) -> Tenant | None:
    async with conn.cursor(row_factory=class_row(Tenant)) as cursor:
        await cursor.execute(GET_TENANT, {"name": name})
        return await cursor.fetchone()


async def list_tenants(conn: Connection) -> list[Tenant]:
    async with conn.cursor(row_factory=class_row(Tenant)) as cursor:
        await cursor.execute(LIST_TENANTS)
        return await cursor.fetchall()


async def list_api_keys(conn: Connection, tenant_id: int) -> list[ApiKey]:
    async with conn.cursor(row_factory=class_row(ApiKey)) as cursor:
        await cursor.execute(LIST_API_KEYS, {"tenant_id": tenant_id})
        return await cursor.fetchall()
