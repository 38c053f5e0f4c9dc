"""Template versions: immutable once written, and only their status moves (R-146)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
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
    """What a version says: all that makes it differ from another one.

    variables: name -> declaration, as the producer gave it.
    text_derived: the text was made from the HTML (R-122).
    """

    channel: str
    locale: str
    subject: str
    html: str | None
    text: str
    text_derived: bool
    variables: dict[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class TemplateSummary:
    """One version without its bodies."""

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


@dataclass(frozen=True, slots=True)
class Template(TemplateSummary):
    """One version."""

    html: str | None
    text: str
    text_derived: bool

    @property
    def content(self) -> Content:
        return Content(
            channel=self.channel,
            locale=self.locale,
            subject=self.subject,
            html=self.html,
            text=self.text,
            text_derived=self.text_derived,
            variables=self.variables,
            description=self.description,
        )


async def create(conn: Connection, tenant_id: int, template_id: str, content: Content) -> tuple[Template, bool]:
    """The new version as a draft, and True; or the latest one, if it says the same and is in use, and False.

    Holds the tenant's row until the transaction ends, so that two writers never get one number.
    """
    await conn.execute(LOCK_TENANT, {"tenant_id": tenant_id})
    parameters = {
        "tenant_id": tenant_id,
        "template_id": template_id,
        "channel": content.channel,
        "locale": content.locale,
        "subject": content.subject,
        "html": content.html,
        "text": content.text,
        "text_derived": content.text_derived,
        "variables": Jsonb(content.variables),
        "description": content.description,
    }
    async with conn.cursor(row_factory=class_row(Template)) as cursor:
        latest = await (await cursor.execute(LATEST, parameters)).fetchone()
        if latest is not None and latest.content == content and latest.status != "archived":
            return latest, False
        created = await (await cursor.execute(CREATE, parameters)).fetchone()
    assert created is not None
    return created, True


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
