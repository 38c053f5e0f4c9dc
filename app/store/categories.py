"""Categories: what kinds of notification a tenant sends, and the policies of each."""

from __future__ import annotations

from datetime import datetime

import msgspec
from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("categories")
UPSERT = _q["upsert"]
GET = _q["get"]
LIST_ALL = _q["list_all"]


class CategoryRules(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """All that a tenant decides about a category. A struct, because in JSON ``class_`` is ``class``."""

    class_: str
    channels: list[str]
    sender: str | None
    reply_to: str | None
    ambiguity_policy: str
    validity_seconds: int | None
    recipient_per_hour: int | None
    track_opens: bool
    track_clicks: bool
    test_mode: bool
    description: str


class Category(CategoryRules, frozen=True, kw_only=True, rename={"class_": "class"}):
    name: str
    created_at: datetime
    updated_at: datetime


async def upsert(conn: Connection, tenant_id: int, name: str, rules: CategoryRules) -> Category:
    """The category as it now is: created, or replaced whole."""
    async with conn.cursor(row_factory=class_row(Category)) as cursor:
        await cursor.execute(UPSERT, {"tenant_id": tenant_id, "name": name, **msgspec.structs.asdict(rules)})
        category = await cursor.fetchone()
    assert category is not None
    return category


async def get(conn: Connection, tenant_id: int, name: str) -> Category | None:
    async with conn.cursor(row_factory=class_row(Category)) as cursor:
        await cursor.execute(GET, {"tenant_id": tenant_id, "name": name})
        return await cursor.fetchone()


async def list_all(conn: Connection, tenant_id: int, *, after: str | None = None, limit: int) -> list[Category]:
    """By name, those behind ``after``."""
    async with conn.cursor(row_factory=class_row(Category)) as cursor:
        await cursor.execute(LIST_ALL, {"tenant_id": tenant_id, "after": after, "limit": limit})
        return await cursor.fetchall()
