"""What tenants set up, as the accepting of a notification needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from app.db import Connection
from app.store._queries import load

_q = load("config")
TERMS = _q["terms"]


@dataclass(frozen=True, slots=True)
class CategoryTerms:
    class_: str
    channels: tuple[str, ...]
    validity_seconds: int | None


@dataclass(frozen=True, slots=True)
class ContentTerms:
    """One channel's content of one template version, in one locale."""

    version: int
    channel: str
    status: str
    variables: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """A category, if there is one, and all versions of a template, newest first; empty when there is none."""

    category: CategoryTerms | None
    contents: tuple[ContentTerms, ...]


async def terms(conn: Connection, tenant_id: int, category: str, template_id: str) -> Terms:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(TERMS, {"tenant_id": tenant_id, "category": category, "template_id": template_id})
        row = await cursor.fetchone()
    assert row is not None
    return Terms(
        category=CategoryTerms(
            class_=row["category_class"],
            channels=tuple(row["category_channels"]),
            validity_seconds=row["category_validity_seconds"],
        )
        if row["category_class"]
        else None,
        contents=tuple(ContentTerms(**content) for content in row["contents"]),
    )
