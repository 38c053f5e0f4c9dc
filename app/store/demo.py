"""What the demo reads to tell how its notifications fare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("demo")
STORIES, REFUSALS, ANY_SUPPRESSED = _q["stories"], _q["refusals"], _q["any_suppressed"]


@dataclass(frozen=True, slots=True)
class Story:
    """A notification with its delivery, as they stand.

    took: from accepted to ended, zero while it is under way. detail: what its last attempt came to.
    suppressed_for: why its address is suppressed now. events: kind, source, occurred_at, data and
    is_proof, in the order they were recorded.
    """

    notification_id: UUID
    delivery_id: UUID | None
    accepted_at: datetime
    state: str
    reason: str | None
    attempts: int
    failures: int
    took: timedelta
    detail: str | None
    suppressed_for: str | None
    events: list[dict[str, Any]]

    @property
    def told(self) -> list[dict[str, Any]]:
        """What the provider said, unasked or when asked."""
        return [event for event in self.events if event["kind"].startswith("provider_")]

    @property
    def proof(self) -> dict[str, Any] | None:
        """The event that proves the delivery."""
        return next((event for event in self.events if event["is_proof"]), None)


async def stories(conn: Connection, ids: Iterable[UUID]) -> dict[UUID, Story]:
    async with conn.cursor(row_factory=class_row(Story)) as cursor:
        await cursor.execute(STORIES, {"ids": list(ids)})
        return {story.notification_id: story async for story in cursor}


async def refusals(conn: Connection) -> dict[str, int]:
    """How many webhooks were ever refused, by reason."""
    cursor = await conn.execute(REFUSALS)
    return dict(await cursor.fetchall())


async def any_suppressed(conn: Connection, phones: Iterable[str]) -> bool:
    cursor = await conn.execute(ANY_SUPPRESSED, {"phones": list(phones)})
    [suppressed] = await cursor.fetchone() or (False,)
    return bool(suppressed)
