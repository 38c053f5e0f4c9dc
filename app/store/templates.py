"""Template versions: immutable once written, and only their status moves (R-146)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from app.db import Connection
from app.store._queries import load

_q = load("templates")
LOCK_TENANT = _q["lock_tenant"]
CREATE = _q["create"]
LATEST = _q["latest"]
GET = _q["get"]
LIST_VERSIONS = _q["list_versions"]
PUBLISH = _q["publish"]
ARCHIVE = _q["archive"]


@dataclass(frozen=True, slots=True)
class Content:
    """What a version says on one channel.

    text_derived: the text was made from the HTML (R-122). extras: further parts by name (R-126).
    """

    channel: str
    locale: str
    subject: str
    html: str | None
    text: str
    text_derived: bool
    extras: dict[str, str]


@dataclass(frozen=True, slots=True)
class Wording:
    """All that makes a version differ from another one: its contents, by channel, email first.

    variables: name -> declaration, as the producer gave it; one context feeds every channel (R-139).
    """

    contents: tuple[Content, ...]
    variables: dict[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class TemplateSummary:
    """One version without its bodies; channel and subject are of its first content."""

    template_id: str
    version: int
    channel: str
    locale: str
    subject: str
    variables: dict[str, Any]
    description: str
    status: str
    created_at: datetime
    published_at: datetime | None
    archived_at: datetime | None
    channels: list[str]


@dataclass(frozen=True, slots=True)
class Template(TemplateSummary):
    """One version, with what its first content says; contents has them all."""

    html: str | None
    text: str
    text_derived: bool
    contents: list[dict[str, Any]]

    @property
    def wording(self) -> Wording:
        return Wording(tuple(Content(**content) for content in self.contents), self.variables, self.description)


async def create(conn: Connection, tenant_id: int, template_id: str, wording: Wording) -> tuple[Template, bool]:
    """The new version as a draft, and True; or the latest one, if it says the same and is in use, and False.

    Holds the tenant's row until the transaction ends, so that two writers never get one number.
    """
    key = {"tenant_id": tenant_id, "template_id": template_id}
    await conn.execute(LOCK_TENANT, key)
    [newest] = await _fetch(conn, LATEST, key)
    if newest is not None:
        latest = await get(conn, tenant_id, template_id, newest)
        if latest is not None and latest.wording == wording and latest.status != "archived":
            return latest, False
    [version] = await _fetch(
        conn,
        CREATE,
        key
        | {
            "contents": Jsonb([asdict(content) for content in wording.contents]),
            "variables": Jsonb(wording.variables),
            "description": wording.description,
        },
    )
    created = await get(conn, tenant_id, template_id, version)
    assert created is not None
    return created, True


async def _fetch(conn: Connection, query: SQL, parameters: dict[str, Any]) -> Any:
    row = await (await conn.execute(query, parameters)).fetchone()
    assert row is not None
    return row


async def get(conn: Connection, tenant_id: int, template_id: str, version: int) -> Template | None:
    async with conn.cursor(row_factory=class_row(Template)) as cursor:
        await cursor.execute(GET, {"tenant_id": tenant_id, "template_id": template_id, "version": version})
        return await cursor.fetchone()


async def list_versions(
    conn: Connection,
    tenant_id: int,
    *,
    template_id: str | None = None,
    status: str | None = None,
    after: tuple[str, int] | None = None,
    limit: int,
) -> list[TemplateSummary]:
    """In the order of their ids and numbers, those behind ``after`` (a template id and version)."""
    after_id, after_version = after or (None, None)
    parameters = {
        "tenant_id": tenant_id,
        "template_id": template_id,
        "status": status,
        "after_id": after_id,
        "after_version": after_version,
        "limit": limit,
    }
    async with conn.cursor(row_factory=class_row(TemplateSummary)) as cursor:
        await cursor.execute(LIST_VERSIONS, parameters)
        return await cursor.fetchall()


async def publish(conn: Connection, tenant_id: int, template_id: str, version: int) -> None:
    """A draft becomes published; any other status stands."""
    await conn.execute(PUBLISH, {"tenant_id": tenant_id, "template_id": template_id, "version": version})


async def archive(conn: Connection, tenant_id: int, template_id: str, version: int) -> None:
    """Whatever it was, it can no longer be sent."""
    await conn.execute(ARCHIVE, {"tenant_id": tenant_id, "template_id": template_id, "version": version})
